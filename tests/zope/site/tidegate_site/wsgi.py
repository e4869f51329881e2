"""A WSGI filter round Zope: it marks every answer with the process that gave it, and keeps a list of the requests.

With the list (`$ZOPE_REQUESTS`, a file) one can tell what an edge answered by itself from what reached Zope.
"""

import os
import threading
import time


def mark(app, global_conf):
    """For PasteDeploy (`paste.filter_app_factory`)."""
    name = f"{os.environ.get('ZOPE_NAME', 'zope')}/{os.getpid()}"
    path = os.environ.get("ZOPE_REQUESTS")
    requests = open(path, "a", buffering=1, encoding="utf-8") if path else None
    lock = threading.Lock()

    def marked(environ, start_response):
        begun = time.monotonic()
        target = environ.get("PATH_INFO", "") + (f"?{q}" if (q := environ.get("QUERY_STRING")) else "")

        def note(status):
            if requests is not None:
                line = f"{environ['REQUEST_METHOD']} {target} {status} {time.monotonic() - begun:.3f}\n"
                with lock:
                    requests.write(line)

        def start(status, headers, exc_info=None):
            note(status[:3])
            return start_response(status, [*headers, ("X-Zope", name)], exc_info)

        try:
            return app(environ, start)
        except Exception:
            note(500)
            raise

    return marked
