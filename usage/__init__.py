"""Billing by usage: laps of sessions out of Redis, in batches to the vendor's tracker, each second counted once.

batch     records -> batches; duplicates and superseded laps dropped; when to flush, when to give up
settings  what an operator may set
report    register with the tracker, deliver one batch
jobs      the service: takes records, delivers, settles, closes out orphaned sessions, gives up in the end
tracker   the vendor's side as a small server: counts each record once, tells totals; also the tests' partner
"""
