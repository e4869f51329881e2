"""Data.fs files by ZODB itself, and what ZODB's own checker says of files.

    datafs.py write DIR        writes good.fs, packed.fs, voted.fs into DIR
    datafs.py busy FILE        commits, takes back what was voted for, and packs, for a second or two
    datafs.py check FILE...    prints a line for each: "good", or what fstest says
"""

import sys

import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.scripts.fstest import FormatError
from ZODB.scripts.fstest import check


def commit(text, **extension):
    current = transaction.get()
    current.note(text)
    for key, value in extension.items():
        current.setExtendedInfo(key, value)
    transaction.commit()


def history(path):
    """New objects, changes, large ones, undos of both, a creation undone."""
    db = DB(FileStorage(path))
    root = db.open().root()
    for at in range(8):
        root[f"page-{at}"] = PersistentMapping(text=f"page {at}")
        commit(f"add page {at}", request_type="tests", at=at)
    for at in range(8):
        root[f"page-{at}"]["text"] = "x" * (10 ** (at % 5))
        root["page-0"]["seen"] = at
        commit("")
    db.undo(db.undoLog(0, 1)[0]["id"])
    commit("undo a change")
    root["short-lived"] = PersistentMapping()
    commit("to be undone")
    db.undo(db.undoLog(0, 1)[0]["id"])
    commit("undo a creation")
    return db


def write(folder):
    history(f"{folder}/good.fs").close()
    db = history(f"{folder}/packed.fs")
    db.pack()
    root = db.open().root()
    root["page-1"]["text"] = "after the pack"
    commit("")
    db.close()
    # Voted for and not finished, as after a crash: copied before the vote is taken back.
    db = history(f"{folder}/voted-before.fs")
    root = db.open().root()
    root["page-2"]["text"] = "never finished"
    current = transaction.get()
    storage = db.storage
    current.join(Copier(storage, f"{folder}/voted-before.fs", f"{folder}/voted.fs"))
    try:
        transaction.commit()
    except Enough:
        transaction.abort()
    db.close()


def busy(path):
    storage = FileStorage(path)
    db = DB(storage)
    root = db.open().root()
    for at in range(120):
        root[f"page-{at % 20}"] = PersistentMapping(text="y" * (7 ** (at % 6)))
        if at % 3 == 1:
            transaction.get().join(Refuser())
            try:
                transaction.commit()
            except Enough:
                transaction.abort()
        else:
            commit(f"round {at}")
        if at == 80:
            db.pack()
    db.close()


class Enough(Exception):
    pass


class Refuser:
    """A data manager that votes last, and refuses."""

    def sortKey(self):
        return "~~~"

    def tpc_vote(self, txn):
        raise Enough

    def nothing(self, txn):
        pass

    tpc_begin = commit = tpc_finish = tpc_abort = abort = nothing


class Copier(Refuser):
    """Copies the file before it refuses."""

    def __init__(self, storage, source, target):
        self.storage, self.source, self.target = storage, source, target

    def tpc_vote(self, txn):
        self.storage._file.flush()
        with open(self.source, "rb") as source, open(self.target, "wb") as target:
            target.write(source.read())
        raise Enough


def judge(path):
    try:
        check(path)
    except FormatError as complaint:
        return str(complaint).replace("\n", " ")
    except Exception as cause:
        return f"{type(cause).__name__}: {cause}"
    return "good"


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    elif sys.argv[1] == "busy":
        busy(sys.argv[2])
    else:
        for path in sys.argv[2:]:
            print(judge(path))
