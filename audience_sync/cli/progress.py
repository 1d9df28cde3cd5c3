"""Progress bars on a terminal, nothing elsewhere. Always on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from audience_sync.cli import errors


class Bars:
    """One bar a workflow; see `delivery.Progress`."""

    def __init__(self) -> None:
        console = errors()
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.is_shown = console.is_terminal
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()

    def start(self, workflow: str, total: int) -> None:
        if total:
            self._tasks[workflow] = self._progress.add_task(f"→ {workflow}", total=total, rate="")

    def advance(self, workflow: str, count: int) -> None:
        if workflow in self._tasks:
            task = self._tasks[workflow]
            self._progress.advance(task, count)
            speed = self._progress.tasks[self._progress.task_ids.index(task)].speed
            self._progress.update(task, rate=f"{speed:,.0f}/s" if speed else "")
