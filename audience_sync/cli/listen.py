from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from audience_sync.errors import ConfigError
from audience_sync.receiver import Call, Receiver, listening, server


@click.command("listen")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--shared-secret", envvar="TRAY_SECRET", help="Check X-Signature with it, and answer 401 when wrong.")
@click.option("--fail", default=0.0, type=click.FloatRange(0, 1), help="Share of calls to fail, 0 to 1.")
@click.option("--status", default=503, show_default=True, type=click.IntRange(300, 599), help="What failing calls get.")
@click.option("--delay", default=0.0, type=click.FloatRange(0), help="Seconds to wait before each answer.")
@click.option(
    "--record", type=click.Path(path_type=Path, dir_okay=False), help="Append each call to this file as JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print each call as a line of JSON.")
@click.option("--quiet", is_flag=True, help="Print totals only, once a second.")
def command(
    host: str,
    port: int,
    shared_secret: str | None,
    fail: float,
    status: int,
    delay: float,
    record: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Stand in for Tray workflows: every path is one. Prints each call and whether its signature is right."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        bound = listening(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port") from None
    try:
        file = record.open("a", encoding="utf-8") if record else None
    except OSError as error:
        raise ConfigError(f"cannot write {record}: {error.strerror}", "choose another --record") from None
    shown_at = 0.0

    def on_call(call: Call) -> None:
        nonlocal shown_at
        document = {
            "path": call.path,
            "signature": call.signature,
            "status": call.status,
            "at": call.at,
            "body": call.body,
        }
        if file is not None:
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
            file.flush()
        if as_json:
            click.echo(json.dumps(document, ensure_ascii=False))
        elif not quiet:
            console.print(line(call))
        elif time.monotonic() - shown_at > 1:
            shown_at = time.monotonic()
            console.print(", ".join(f"{count:,} {name}" for name, count in sorted(receiver.counts.items())))

    receiver = Receiver(
        shared_secret=shared_secret or None,
        fail=fail,
        status=status,
        delay=delay,
        on_call=on_call,
        keep_calls=False,
    )
    where = f"http://{host}:{bound.getsockname()[1]}"
    checks = "checking signatures" if shared_secret else "not checking signatures (no --shared-secret)"
    (Console(stderr=True) if as_json else console).print(
        f"listening on {where}, {checks}; Ctrl-C ends", highlight=False
    )
    try:
        server(receiver).run([bound])
    except KeyboardInterrupt:
        pass
    finally:
        if file is not None:
            file.close()
        if not as_json:
            console.print(
                "\n" + (", ".join(f"{n:,} {name}" for name, n in sorted(receiver.counts.items())) or "no calls")
            )


def line(call: Call) -> str:
    """One call on one line: when, to whom, about whom, what."""
    traits = call.body.get("traits") or {}
    said = "  ".join(f"{escape(str(key))} = {_value(value)}" for key, value in traits.items()) or escape(
        str(call.body.get("type"))
    )
    user = call.body.get("userId", call.body.get("userID", "?"))
    mark = {"ok": "[green]signed[/]", "wrong": "[red]WRONG SIGNATURE[/]", "none": "[dim]unsigned[/]"}[call.signature]
    answer = "" if call.status < 300 else f"  [red]answered {call.status}[/]"
    clock = time.strftime("%H:%M:%S", time.localtime(call.at))
    return f"[dim]{clock}[/] {escape(call.path)}  [bold]{escape(str(user))}[/]  {said}  {mark}{answer}"


def _value(value: object) -> str:
    if value is True:
        return "[green]true[/]"
    if value is False:
        return "[red]false[/]"
    return escape(json.dumps(value, ensure_ascii=False))
