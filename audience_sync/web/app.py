"""The application: routes, and what holds for every answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from sqlalchemy.engine import Connection
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from audience_sync import __version__
from audience_sync.clock import ago, lasted, utcnow
from audience_sync.database import open_state, told, writing
from audience_sync.errors import AudienceSyncError
from audience_sync.history import past_syncs
from audience_sync.outbox.dead_letters import Chosen, discard_dead, list_dead, retry_dead
from audience_sync.show import what_is_known
from audience_sync.state.reading import reading
from audience_sync.web import charts, pages
from audience_sync.web.access import COOKIE, SESSION_SECONDS, Access
from audience_sync.web.metrics import CONTENT_TYPE, Metrics
from audience_sync.web.source import Source

HERE = Path(__file__).parent
STATIC = {"page.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
LARGEST_FORM = 64 * 1024
HISTORY = 50

SAID = {
    "running": "The sync was asked for; it starts at once.",
    "runs already": "That job runs already.",
    "retried": "They are being sent again.",
    "retried later": "They are sent again with the next sync, or at once by audience-sync deliver.",
    "discarded": "They are discarded.",
}
"""What an action may report of itself, by the word in the address."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_app(source: Source, access: Access, metrics: Metrics | None = None) -> Starlette:
    """The page and what machines ask for. `metrics` is kept by whoever counts; `ui` has none of its own counts."""
    site = _Site(source, access, metrics or Metrics(source))
    return Starlette(
        routes=[
            Route("/healthz", site.healthz),
            Route("/readyz", site.readyz),
            Route("/metrics", site.metrics_text),
            Route("/static/{name}", site.static),
            Route("/login", site.login, methods=["GET", "POST"]),
            Route("/logout", site.logout, methods=["POST"]),
            Route("/", site.overview),
            Route("/jobs/{key}", site.job),
            Route("/jobs/{key}/run", site.run_job, methods=["POST"]),
            Route("/audiences/{key:path}", site.audience),
            Route("/workflows/{name:path}", site.workflow),
            Route("/dead-letters", site.dead_letters),
            Route("/dead-letters/{action}", site.act_on_dead_letters, methods=["POST"]),
            Route("/users", site.user),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=site.guard)],
        exception_handlers={404: site.not_found, AudienceSyncError: site.cannot_read},
    )


class _Site:
    def __init__(self, source: Source, access: Access, metrics: Metrics) -> None:
        self.source = source
        self.access = access
        self.metrics = metrics
        self.files = {name: (HERE / "static" / name).read_bytes() for name in STATIC}
        stamp = hashlib.sha256(b"".join(self.files.values())).hexdigest()[:12]
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= {"coded": _coded, "json": lambda value: json.dumps(value, ensure_ascii=False)}
        self.templates.globals.update(
            ago=ago, lasted=lasted, short=charts.short, sparkline=charts.sparkline, version=__version__, stamp=stamp
        )

    async def guard(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """What holds for every request: the right host, a token where one is needed, and strict headers."""
        path = request.url.path
        if not self.access.host_is_right(request):
            response: Response = PlainTextResponse("not a name of this server\n", 421)
        elif path in ("/healthz", "/readyz", "/login") or path.startswith("/static/") or self.access.may_look(request):
            response = await answer(request)
        elif path == "/metrics":
            response = PlainTextResponse(
                "send the token as Authorization: Bearer\n", 401, {"WWW-Authenticate": "Bearer"}
            )
        else:
            response = RedirectResponse("/login", 303)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    # What machines ask for.

    async def healthz(self, _request: Request) -> Response:
        """Alive: this process answers."""
        return JSONResponse({"status": "ok", "version": __version__})

    async def readyz(self, _request: Request) -> Response:
        """Ready: state can be read and the file in use is the one on disk; 503 says what is wrong."""
        _, error = await run_in_threadpool(self.source.look_or_error)
        wrong = []
        if error is not None:
            wrong.append("state cannot be read")
        if self.source.config_error is not None:
            wrong.append("jobs.yaml is wrong; the one before it is in use")
        return JSONResponse({"status": "not ready" if wrong else "ok", "problems": wrong}, 503 if wrong else 200)

    async def metrics_text(self, _request: Request) -> Response:
        return Response(await run_in_threadpool(self.metrics.text), headers={"Content-Type": CONTENT_TYPE})

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.files:
            return await self.not_found(request, None)
        age = "public, max-age=31536000, immutable" if request.url.query else "no-cache"
        return Response(self.files[name], media_type=STATIC[name], headers={"Cache-Control": age})

    # Signing in.

    async def login(self, request: Request) -> Response:
        if request.method == "GET":
            return self._page(request, "login.html", wrong=False)
        form = await _form(request)
        if not self.access.is_same_origin(request) or not self.access.token_is_right(form.get("token", "").strip()):
            return self._page(request, "login.html", 403, wrong=True)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            self.access.new_session(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def logout(self, request: Request) -> Response:
        response = RedirectResponse("/", 303)
        response.delete_cookie(COOKIE)
        return response

    # Pages.

    async def overview(self, request: Request) -> Response:
        return await run_in_threadpool(self._overview, request)

    def _overview(self, request: Request) -> Response:
        stands = self.source.look()
        with reading(self.source.config.state) as connection:
            points = {} if connection is None else pages.sizes_over_time(connection, None, pages.SPARK_POINTS)
        running = [job for job in stands["jobs"] if job["last_sync"] and job["last_sync"]["status"] == "running"]
        return self._page(
            request,
            "overview.html",
            stands=stands,
            points=points,
            running=[(job, _progress(job["last_sync"], stands)) for job in running],
            config_error=self.source.config_error,
            live=bool(running) or bool(self.source.running()),
        )

    async def job(self, request: Request) -> Response:
        return await run_in_threadpool(self._job, request)

    def _job(self, request: Request) -> Response:
        key = request.path_params["key"]
        stands = self.source.look()
        job = next((job for job in stands["jobs"] if job["job"] == key), None)
        if job is None:
            return self._not_found(request)
        with reading(self.source.config.state) as connection:
            past = [] if connection is None else past_syncs(connection, self.source.config.state, [key], HISTORY)
        live = bool(past) and past[0]["status"] == "running"
        return self._page(request, "job.html", job=job, past=past, live=live)

    async def run_job(self, request: Request) -> Response:
        key = request.path_params["key"]
        if not self.access.may_act(request, (await _form(request)).get("csrf", "")):
            return self._refused(request)
        if self.source.run_now is None or all(job.key != key for job in self.source.config.jobs):
            return self._not_found(request)
        started = await run_in_threadpool(self.source.run_now, key)
        self.source.forget()
        return RedirectResponse("/?said=" + ("running" if started else "runs%20already"), 303)

    async def audience(self, request: Request) -> Response:
        return await run_in_threadpool(self._audience, request)

    def _audience(self, request: Request) -> Response:
        key = request.path_params["key"]
        with reading(self.source.config.state) as connection:
            found = None if connection is None else pages.computation(connection, key)
            if connection is None or found is None:
                return self._not_found(request)
            points = pages.sizes_over_time(connection, [key], pages.CHART_POINTS).get(key, [])
        return self._page(
            request,
            "audience.html",
            found=found,
            points=points,
            sizes=charts.sizes(points, f"Size of {found.name}"),
            changes=charts.changes(points[-60:], f"Changes of {found.name}"),
        )

    async def workflow(self, request: Request) -> Response:
        return await run_in_threadpool(self._workflow, request)

    def _workflow(self, request: Request) -> Response:
        name = request.path_params["name"]
        stands = self.source.look()
        found = next((w for w in stands["workflows"] if w["workflow"] == name), None)
        if found is None:
            return self._not_found(request)
        with reading(self.source.config.state) as connection:
            assert connection is not None
            past = past_syncs(connection, self.source.config.state, [], HISTORY)
            dead = list_dead(connection, Chosen(workflows=[name]), pages.DEAD_LETTERS)
        told = [(sync, d) for sync in past for d in sync["deliveries"] if d["workflow"] == name]
        return self._page(request, "workflow.html", workflow=found, told=told, dead=dead, advice=_about(stands, name))

    async def dead_letters(self, request: Request) -> Response:
        return await run_in_threadpool(self._dead_letters, request)

    def _dead_letters(self, request: Request) -> Response:
        with reading(self.source.config.state) as connection:
            found = [] if connection is None else list_dead(connection, Chosen(), pages.DEAD_LETTERS)
        return self._page(request, "dead_letters.html", dead=found, most=pages.DEAD_LETTERS)

    async def act_on_dead_letters(self, request: Request) -> Response:
        form = await _form(request)
        if not self.access.may_act(request, form.get("csrf", "")):
            return self._refused(request)
        act = {"retry": self._retry, "discard": self._discard}.get(request.path_params["action"])
        if act is None:
            return self._not_found(request)
        workflows, keys, users = ([form[name]] if form.get(name) else [] for name in ("workflow", "key", "user"))
        chosen = Chosen(workflows=workflows, keys=keys, users=users)
        said = await run_in_threadpool(act, chosen)
        self.source.forget()
        return RedirectResponse("/dead-letters?said=" + quote(said), 303)

    def _retry(self, chosen: Chosen) -> str:
        self._change_state(lambda connection: retry_dead(connection, chosen, utcnow()))
        if self.source.deliver_now is None:
            return "retried later"
        self.source.deliver_now()
        return "retried"

    def _discard(self, chosen: Chosen) -> str:
        self._change_state(lambda connection: discard_dead(connection, chosen))
        return "discarded"

    def _change_state(self, work: Callable[[Connection], object]) -> None:
        url = self.source.config.state
        with told("state", url):
            engine = open_state(url)
            try:
                with engine.connect() as connection, writing(connection):
                    work(connection)
            finally:
                engine.dispose()

    async def user(self, request: Request) -> Response:
        return await run_in_threadpool(self._user, request)

    def _user(self, request: Request) -> Response:
        user_id = request.query_params.get("id", "")
        found = None
        if user_id:
            with reading(self.source.config.state) as connection:
                found = None if connection is None else what_is_known(connection, user_id, self.source.config)
        kept = self.source.config.retention.deliveries
        return self._page(request, "user.html", user_id=user_id, found=found, kept=str(kept))

    # Answers.

    def _page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        now = datetime.now(UTC)
        common = {
            "now": now,
            "path": request.url.path,
            "signed_in": self.access.is_signed_in(request),
            "can_sign_in": self.access.can_sign_in,
            "can_run": self.source.run_now is not None,
            "csrf": self.access.csrf(request),
            "said": SAID.get(request.query_params.get("said", "")),
            "live": False,
        }
        return HTMLResponse(self.templates.get_template(template).render(common | values), status)

    async def not_found(self, request: Request, _error: Any) -> Response:
        return self._not_found(request)

    def _not_found(self, request: Request) -> HTMLResponse:
        return self._page(
            request, "message.html", 404, title="Not here", message="There is no such page, or what it showed is gone."
        )

    def _refused(self, request: Request) -> HTMLResponse:
        return self._page(
            request,
            "message.html",
            403,
            title="Sign in first",
            message="Doing something needs the token, and a form of this page: sign in, then try again.",
        )

    async def cannot_read(self, request: Request, error: Exception) -> Response:
        return self._page(request, "message.html", 503, title="State cannot be read", message=str(error))


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; nothing for one that is not `application/x-www-form-urlencoded` or is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return {}
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST_FORM:
            return {}
    return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))


def _coded(text: str) -> Markup:
    """Text in which `backticks` mark commands."""
    parts = text.split("`")
    marked = [Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)]
    return Markup("").join(marked)


def _progress(sync: dict[str, Any], stands: dict[str, Any]) -> dict[str, Any]:
    """How far a running sync is: of what it recorded, how much its workflows have."""
    changed = sum(c["entered"] + c["exited"] + c["changed"] for c in sync["computations"] if not c["held"])
    pending = sum(workflow["pending"] for workflow in stands["workflows"])
    return {"recorded": len(sync["computations"]), "changed": changed, "pending": pending}


def _about(stands: dict[str, Any], name: str) -> list[str]:
    return [advice for advice in stands["advice"] if advice.startswith(f"{name} ")]
