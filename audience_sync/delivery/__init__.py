"""The outbox's deliveries as signed POST requests, each workflow on its own."""

from audience_sync.delivery.deliver import Progress, WorkflowReport, deliver

__all__ = ["Progress", "WorkflowReport", "deliver"]
