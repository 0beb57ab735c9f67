"""What happens, in which order, when. A flow reads as prose; its stages are in tasks/, what they do in clusterpaths/."""

import os

# A temporary server on a machine without internet would log an error about it; a server of the user's decides itself.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
