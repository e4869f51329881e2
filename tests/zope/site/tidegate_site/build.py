"""Write the site into a new database: `python -m tidegate_site.build ZOPE_CONF`, before any server runs on it.

The database is the one which the configuration names; it must be new. Ends with exit code 0 when the site is committed.
"""

import struct
import sys
import zlib

import transaction
from AccessControl.Permissions import view
from OFS.Folder import manage_addFolder
from OFS.Image import File
from OFS.Image import Image
from Zope2.Startup.run import configure_wsgi

from tidegate_site import pages


DOCUMENTS = 5
USERS = [("admin", "admin", ["Manager"]), ("editor", "editor", ["Member"])]
PAGE_POLICY = "max-age=0, s-maxage=300"


def png(side, tint):
    """A square picture, a gradient towards one of the three colours."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytearray()
    for y in range(side):
        rows.append(0)
        for x in range(side):
            pixel = [x * 255 // side, y * 255 // side, 128]
            pixel[tint] = 255
            rows += bytes(pixel)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


def add(container, item):
    container._setObject(item.getId(), item)


def build(app):
    app.manage_delObjects(["index_html"])
    for name, password, roles in USERS:
        app.acl_users._doAddUser(name, password, roles, [])
    app._addRole("Member")

    add(app, pages.Page("index_html", "The tide table", "High water at noon.", PAGE_POLICY, uid="front"))
    manage_addFolder(app, "docs")
    add(app.docs, pages.Page("index_html", "Documents", "Five of them.", PAGE_POLICY, uid="docs"))
    for number in range(1, DOCUMENTS + 1):
        text = f"Text of document {number}. " * 40
        add(app.docs, pages.Page(f"page-{number}", f"Document {number}", text, PAGE_POLICY, uid=f"doc{number}"))

    manage_addFolder(app, "images")
    add(app.images, Image("plain.png", "Zope's own image", png(64, 0), "image/png"))
    add(app.images, pages.CachedImage("cached.png", "An image with a lifetime", png(128, 2), "image/png"))
    add(app, File("style.css", "Style", b"body { font: 16px sans-serif }\n", "text/css"))

    manage_addFolder(app, "private")
    add(app.private, pages.Page("index_html", "Members only", "Not for everybody.", uid="private"))
    app.private.manage_permission(view, ["Manager", "Member"], acquire=0)

    add(app, pages.Counter("counter", "A form that writes"))
    add(app, pages.Ledger("ledger", "Numbers"))
    add(app, pages.Slow("slow", "Slow"))
    add(app, pages.News("news", "News"))
    add(app, pages.Cookie("cookie", "Cookie"))
    add(app, pages.Language("language", "Greeting"))
    add(app, pages.Echo("echo", "Echo"))
    add(app, pages.Upload("upload", "Upload"))
    add(app, pages.Big("big", "Big"))
    add(app, pages.Failure("failure", "Failure"))
    add(app, pages.Storage("storage", "Storage"))
    add(app, pages.Ok("ok", "OK"))


def main(zope_conf):
    configure_wsgi(zope_conf).prepare()
    import Zope2

    app = Zope2.app()
    build(app)
    transaction.get().note("the test site")
    transaction.commit()
    app._p_jar.close()
    Zope2.DB.close()


if __name__ == "__main__":
    main(sys.argv[1])
