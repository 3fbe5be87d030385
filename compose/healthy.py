"""A container's health check: exit 0 where this process's /health says that it is ready. Needs Python and nothing else.

The port is the variable that the process itself goes by: PROBE_PORT, or its name in the mirrored stack.
"""

import http.client
import os
import sys

NAMES = ("PROBE_PORT", "HTTP_PORT", "SERVER_PORT")


def main() -> int:
    port = next((int(os.environ[name]) for name in NAMES if os.environ.get(name)), 0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        sys.stdout.write(answer.read(200).decode())
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"port {port}: {error}")
        return 1
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
