"""Write a Plone site into a database: `python build.py ZOPE_CONF SITE PURGE_ADDRESS...`, while no server runs on it.

SITE is `classic`, which renders its pages itself, or `api`, which is asked over its REST API, as Volto does; one run makes one
of them. Both have the caching add-on with its profile for a caching proxy, and send their purges to each PURGE_ADDRESS. Under
fixed names there are a folder of pages, an image, a file, a news item and a page that is not published. Manager is `admin`,
editor `editor`, with PASSWORD.
"""

import struct
import sys
import zlib

import transaction
from AccessControl.SecurityManagement import newSecurityManager
from plone import api
from plone.namedfile.file import NamedBlobFile
from plone.namedfile.file import NamedBlobImage
from plone.registry.interfaces import IRegistry
from Products.CMFPlone.factory import addPloneSite
from Testing.makerequest import makerequest
from Zope2.Startup.run import configure_wsgi
from zope.component import getUtility
from zope.component.hooks import setSite
from zope.globalrequest import setRequest


CACHING = "plone.app.caching:with-caching-proxy"
EXTENSIONS = {
    "classic": ["plone.app.contenttypes:default", "plone.app.layout:default", "plonetheme.barceloneta:default", "plone.app.caching:default", "plone.restapi:default", CACHING],
    "api": ["plone.app.contenttypes:default", "plone.app.caching:default", "plone.volto:initial", CACHING],
}
PASSWORD = "tide-table-1"


def png(side):
    """A square picture, a gradient."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(bytes([0]) + bytes(v for x in range(side) for v in (x * 255 // side, y * 255 // side, 128)) for y in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pdf(size):
    """Something that is long enough to be asked for in parts."""
    line = b"% a line that says nothing, so that the file has a length\n"
    return b"%PDF-1.4\n" + line * (size // len(line)) + b"%%EOF\n"


def fill(site):
    """Content under fixed names."""
    acl = site.acl_users
    acl.userFolderAddUser("editor", PASSWORD, ["Editor", "Contributor", "Reviewer", "Member"], [])
    api.portal.set_registry_record("plone.enable_sitemap", True)
    # Of Volto's sites every page may hold others.
    folder = "Folder" if site.getId() == "classic" else "Document"
    docs = api.content.create(site, folder, "docs", title="Documents")
    page = api.content.create(docs, "Document", "page", title="High water")
    other = api.content.create(docs, "Document", "other", title="Low water")
    image = api.content.create(docs, "Image", "img.png", title="Harbour")
    image.image = NamedBlobImage(png(600), "image/png", "img.png")
    file = api.content.create(docs, "File", "table.pdf", title="Tide table")
    file.file = NamedBlobFile(pdf(2_000_000), "application/pdf", "table.pdf")
    sub = api.content.create(docs, folder, "sub", title="Subfolder")
    api.content.create(sub, "Document", "deep", title="Deep water")
    news = api.content.create(docs, "News Item", "news", title="Storm warning")
    news.image = NamedBlobImage(png(500), "image/png", "storm.png")
    for item in (docs, page, other, news, sub, sub["deep"]):
        api.content.transition(item, to_state="published")
    api.content.create(docs, "Document", "draft", title="Draft")
    for item in (image, file, news):
        item.reindexObject()


def purging(proxies):
    registry = getUtility(IRegistry)
    registry["plone.cachepurging.interfaces.ICachePurgingSettings.enabled"] = True
    registry["plone.cachepurging.interfaces.ICachePurgingSettings.cachingProxies"] = tuple(proxies)
    registry["plone.caching.interfaces.ICacheSettings.enabled"] = True
    registry["plone.app.caching.interfaces.IPloneCacheSettings.purgedContentTypes"] = (
        "Document", "Folder", "File", "Image", "News Item", "Plone Site",
    )


def main(zope_conf, name, *proxies):
    configure_wsgi(zope_conf).prepare()
    import Zope2

    app = makerequest(Zope2.app())
    setRequest(app.REQUEST)
    acl = app.acl_users
    if not acl.getUserById("admin"):
        acl._doAddUser("admin", PASSWORD, ["Manager"], [])
    newSecurityManager(None, acl.getUserById("admin").__of__(acl))
    site = addPloneSite(app, name, title=f"Site {name}", extension_ids=EXTENSIONS[name])
    setSite(site)
    site.portal_workflow.setDefaultChain("simple_publication_workflow")
    fill(site)
    purging(proxies)
    transaction.get().note(f"site {name}")
    # What is to be indexed is indexed now, in the site.
    transaction.commit()
    setSite(None)
    app._p_jar.close()
    Zope2.DB.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
