"""jobs.yaml, read and checked: the only place where users' text becomes our types."""

from audience_sync.config.load import check_config, load_config
from audience_sync.config.model import Audience, Config, Job, Source, Trait, Workflow

__all__ = ["Audience", "Config", "Job", "Source", "Trait", "Workflow", "check_config", "load_config"]
