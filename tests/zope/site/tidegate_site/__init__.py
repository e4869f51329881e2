"""A small real Zope site for the demonstration and the tests: what an edge meets in practice, one page for each."""
