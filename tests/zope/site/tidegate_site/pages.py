"""The site's objects. Every one lives in the ZODB; which headers it sends is written beside it.

They know nothing of the edge: they answer as an ordinary Zope would, HEAD included (WebDAV's, unlike GET).
"""

import hashlib
import json
import os
import time
from html import escape

from AccessControl import ClassSecurityInfo
from AccessControl.class_init import InitializeClass
from AccessControl.Permissions import manage_properties
from AccessControl.Permissions import view
from BTrees.Length import Length
from OFS.Image import Image
from OFS.SimpleItem import SimpleItem
from zope.datetime import rfc1123_date
from ZPublisher import zpublish


SECONDS_MAX = 120
BYTES_MAX = 64 * 1024 * 1024


def html(response, title, body):
    response.setHeader("Content-Type", "text/html; charset=utf-8")
    return (
        f"<!DOCTYPE html>\n<html lang=\"en\"><head><title>{escape(title)}</title></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def as_json(response, value):
    response.setHeader("Content-Type", "application/json")
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def entity_tag(item):
    """The transaction that wrote the object, as a strong entity tag."""
    item._p_activate()
    return '"%s"' % item._p_serial.hex()


def names_tag(header, tag):
    """Does this If-None-Match name that tag? Weak comparison; the tags have no comma in them."""
    listed = [one.strip().removeprefix("W/") for one in (header or "").split(",")]
    return "*" in listed or tag in listed


class Item(SimpleItem):
    """What all the objects share: an id, a title, and the permission View."""

    meta_type = "tidegate test item"
    security = ClassSecurityInfo()
    security.declareObjectProtected(view)

    def __init__(self, id, title=""):
        self.id = id
        self.title = title


InitializeClass(Item)


@zpublish
class Page(Item):
    """A text with validators and a freshness lifetime, as a caching add-on would send it."""

    security = ClassSecurityInfo()

    def __init__(self, id, title, text, cache_control=None, uid=None):
        super().__init__(id, title)
        self.text = text
        self.cache_control = cache_control
        self.uid = uid

    @zpublish
    @security.protected(view)
    def index_html(self, REQUEST, RESPONSE):
        """The page; 304 where the client has it."""
        tag = entity_tag(self)
        RESPONSE.setHeader("ETag", tag)
        RESPONSE.setHeader("Last-Modified", rfc1123_date(self._p_mtime or 0))
        if self.cache_control:
            RESPONSE.setHeader("Cache-Control", self.cache_control)
        if self.uid:
            RESPONSE.setHeader("X-Ids-Involved", f"#{self.uid}#")
        if names_tag(REQUEST.get_header("If-None-Match"), tag):
            RESPONSE.setStatus(304)
            return ""
        return html(RESPONSE, self.title, f"<p>{escape(self.text)}</p>\n<p><a href=\"{self.absolute_url()}\">here</a></p>")

    @security.protected(view)
    def __call__(self, REQUEST, RESPONSE):
        """A page called `index_html` is called itself when its folder is asked for."""
        return self.index_html(REQUEST, RESPONSE)

    @zpublish(methods="POST")
    @security.protected(manage_properties)
    def edit(self, text, RESPONSE):
        """Write a new text (managers only)."""
        self.text = str(text)
        RESPONSE.redirect(self.absolute_url(), status=303)


InitializeClass(Page)


@zpublish
class CachedImage(Image):
    """Zope's own image (Last-Modified, ranges), with an entity tag and a lifetime added."""

    security = ClassSecurityInfo()
    cache_control = "public, max-age=3600"

    @zpublish
    @security.protected(view)
    def index_html(self, REQUEST, RESPONSE):
        """The image; 304 where the client has it."""
        tag = entity_tag(self)
        RESPONSE.setHeader("ETag", tag)
        RESPONSE.setHeader("Cache-Control", self.cache_control)
        if names_tag(REQUEST.get_header("If-None-Match"), tag):
            RESPONSE.setStatus(304)
            return ""
        return super().index_html(REQUEST, RESPONSE)


InitializeClass(CachedImage)


@zpublish
class Counter(Item):
    """A form that writes. GET shows the number, POST to `add` raises it; nobody may store either."""

    security = ClassSecurityInfo()

    def __init__(self, id, title):
        super().__init__(id, title)
        self.count = Length()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE):
        """The number and a button."""
        RESPONSE.setHeader("Cache-Control", "private, no-cache")
        form = f'<form method="post" action="{self.absolute_url()}/add"><button>one more</button></form>'
        return html(RESPONSE, self.title, f"<p>count: <b>{self.count()}</b></p>\n{form}")

    @zpublish
    @security.protected(view)
    def value(self, RESPONSE):
        """The bare number."""
        RESPONSE.setHeader("Content-Type", "text/plain")
        RESPONSE.setHeader("Cache-Control", "no-store")
        return f"{self.count()}\n"

    @zpublish(methods="POST")
    @security.protected(view)
    def add(self, RESPONSE):
        """Raise the number by one and go back to the form."""
        self.count.change(1)
        RESPONSE.redirect(self.absolute_url(), status=303)


InitializeClass(Counter)


@zpublish
class Ledger(Item):
    """Numbers that were handed in, each a commit of its own: what was acknowledged must be there for ever.

    No commit makes a new object: a ZEO client keeps the object ids that it fetched from a server which is no more, and the next
    server gives the same ones to another client.
    """

    security = ClassSecurityInfo()

    def __init__(self, id, title):
        super().__init__(id, title)
        self.numbers = ()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE):
        """All of them, one a line."""
        RESPONSE.setHeader("Content-Type", "text/plain")
        RESPONSE.setHeader("Cache-Control", "no-store")
        return "".join(f"{number}\n" for number in self.numbers)

    @zpublish(methods="POST")
    @security.protected(view)
    def add(self, number, RESPONSE):
        """One more."""
        self.numbers += (int(number),)
        RESPONSE.setHeader("Content-Type", "text/plain")
        return f"{int(number)}\n"


InitializeClass(Ledger)


@zpublish
class Slow(Item):
    """`?seconds=2` holds one thread for that long; `&maxage=60` lets a shared cache keep the answer."""

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE, seconds="2", maxage=None):
        """An answer that takes its time."""
        seconds = min(max(float(seconds), 0.0), SECONDS_MAX)
        time.sleep(seconds)
        if maxage is not None:
            RESPONSE.setHeader("Cache-Control", f"max-age=0, s-maxage={int(maxage)}")
        return html(RESPONSE, self.title, f"<p>took {seconds:g} s</p>")


InitializeClass(Slow)


@zpublish
class News(Item):
    """Fresh for two seconds, then served stale in the background or when Zope fails. The body tells renderings apart."""

    security = ClassSecurityInfo()
    cache_control = "max-age=2, stale-while-revalidate=30, stale-if-error=600"

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE):
        """The time of rendering."""
        RESPONSE.setHeader("Cache-Control", self.cache_control)
        return html(RESPONSE, self.title, f"<p>rendered at {time.time_ns()} by {escape(os.environ.get('ZOPE_NAME', ''))}</p>")


InitializeClass(News)


@zpublish
class Cookie(Item):
    """The classic slip: a cookie for one visitor on an answer that says everybody may keep it."""

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE):
        """A cookie and max-age=600."""
        RESPONSE.setCookie("visitor", f"{time.time_ns():x}", path="/", http_only=True, same_site="Lax")
        RESPONSE.setHeader("Cache-Control", "max-age=600")
        return html(RESPONSE, self.title, "<p>you have a cookie now</p>")


InitializeClass(Cookie)


@zpublish
class Language(Item):
    """One URL, two languages, told apart by Accept-Language."""

    security = ClassSecurityInfo()
    greetings = {"en": "Good morning", "de": "Guten Morgen"}

    @zpublish
    @security.protected(view)
    def index_html(self, REQUEST, RESPONSE):
        """A greeting in the visitor's language."""
        wanted = (REQUEST.get_header("Accept-Language") or "").strip().lower()
        language = "de" if wanted.startswith("de") else "en"
        RESPONSE.setHeader("Vary", "Accept-Language")
        RESPONSE.setHeader("Content-Language", language)
        RESPONSE.setHeader("Cache-Control", "max-age=0, s-maxage=300")
        return html(RESPONSE, self.title, f"<p>{self.greetings[language]}</p>")


InitializeClass(Language)


@zpublish
class Echo(Item):
    """What Zope saw of the request, as JSON: for the virtual host rewriting and the forwarded headers."""

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, REQUEST, RESPONSE):
        """The request as it arrived, and the URLs Zope makes of it."""
        environ = REQUEST.environ
        RESPONSE.setHeader("Cache-Control", "no-store")
        headers = {k[5:].lower().replace("_", "-"): v for k, v in environ.items() if k.startswith("HTTP_")}
        return as_json(RESPONSE, {
            "absolute_url": self.absolute_url(),
            "absolute_url_path": self.absolute_url_path(),
            "client": environ.get("REMOTE_ADDR"),
            "headers": headers,
            "method": REQUEST.method,
            "path_info": environ.get("PATH_INFO"),
            "query": environ.get("QUERY_STRING", ""),
            "url": REQUEST["URL"],
        })


InitializeClass(Echo)


@zpublish
class Upload(Item):
    """Takes a body and says what arrived."""

    security = ClassSecurityInfo()

    @zpublish(methods=("POST", "PUT"))
    @security.protected(view)
    def index_html(self, REQUEST, RESPONSE):
        """Length and SHA-256 of the body (send it as application/octet-stream)."""
        digest = hashlib.sha256()
        length = 0
        body = REQUEST.get("BODYFILE")
        while body is not None and (piece := body.read(65536)):
            digest.update(piece)
            length += len(piece)
        return as_json(RESPONSE, {"length": length, "sha256": digest.hexdigest()})


InitializeClass(Upload)


@zpublish
class Big(Item):
    """`?bytes=1000000` of digits, with Content-Length, or in chunks with `&chunked=1`; fresh for five minutes."""

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE, bytes="1000000", chunked=None):
        """That many bytes."""
        length = min(max(int(bytes), 0), BYTES_MAX)
        RESPONSE.setHeader("Content-Type", "application/octet-stream")
        RESPONSE.setHeader("Cache-Control", "max-age=300")
        data = (b"0123456789" * (length // 10 + 1))[:length]
        if not chunked:
            return data
        for start in range(0, length, 65536):
            RESPONSE.write(data[start:start + 65536])
        return None


InitializeClass(Big)


@zpublish
class Failure(Item):
    """`?status=503&maxage=60&retry=5`: an error of choice, if need be with the cache headers of success; 0 raises."""

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE, status="0", maxage=None, retry=None):
        """Fail as asked."""
        status = int(status)
        if not 400 <= status <= 599:
            raise RuntimeError("a bug in the site, on request")
        RESPONSE.setStatus(status, lock=True)
        if maxage is not None:
            RESPONSE.setHeader("Cache-Control", f"public, s-maxage={int(maxage)}")
        if retry is not None:
            RESPONSE.setHeader("Retry-After", str(int(retry)))
        return html(RESPONSE, self.title, f"<p>{status}</p>")


InitializeClass(Failure)


@zpublish
class Storage(Item):
    """How this Zope stands with its ZEO server: `index_html` looks, `ping` asks (and hangs while the server is gone).

    Load it once before the server goes: an object that is in no cache cannot be had without it.
    """

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE):
        """Is the client connected? 503 if not; a frozen server still counts as connected."""
        connected = bool(self._p_jar.db().storage.is_connected())
        RESPONSE.setHeader("Cache-Control", "no-store")
        RESPONSE.setStatus(200 if connected else 503)
        return as_json(RESPONSE, {"connected": connected})

    @zpublish
    @security.protected(view)
    def ping(self, RESPONSE):
        """Ask the server and say how long it took."""
        begun = time.monotonic()
        self._p_jar.db().storage.ping()
        RESPONSE.setHeader("Cache-Control", "no-store")
        return as_json(RESPONSE, {"seconds": time.monotonic() - begun})


InitializeClass(Storage)


@zpublish
class Ok(Item):
    """The usual health page: it answers as long as a thread is free, whatever the storage does."""

    security = ClassSecurityInfo()

    @zpublish
    @security.protected(view)
    def index_html(self, RESPONSE):
        """OK."""
        RESPONSE.setHeader("Content-Type", "text/plain")
        RESPONSE.setHeader("Cache-Control", "no-store")
        return "OK\n"


InitializeClass(Ok)
