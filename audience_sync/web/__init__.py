"""What `start` and `ui` serve: health, metrics, and the page for operators."""

from audience_sync.web.app import make_app
from audience_sync.web.serving import Web

__all__ = ["Web", "make_app"]
