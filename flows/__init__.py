"""The flows. Their tasks are in tasks/, the work is in clusterpaths/."""

import os

# Without internet, a temporary server would log an error about analytics; a configured server is not affected.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
