"""The embedded lab's Alertmanager: routing, grouping, silences, inhibition, and API v2. It keeps a log of what it would have sent."""

from opslib.lab.alertmanager.api import app
from opslib.lab.alertmanager.config import Config, ConfigError
from opslib.lab.alertmanager.state import Alertmanager, Notification

__all__ = ["Alertmanager", "Config", "ConfigError", "Notification", "app"]
