"""The right to run: a signed licence, confirmed by its issuer now and then, told to the other services every second.

license   a licence's text, keys and the time -> License, or the reason why not; the issuer's signed answers
trust     what the checks so far are worth: Ready, Connected, TrustBased, Failed; what survives a restart
settings  what an operator may set
checkin   one question to the issuer, and its checked answer
jobs      the service: file, check-ins, state; replicas share one state in Redis
minting   the vendor's keys and signatures
issuer    the vendor's side as a small server: a book of licences, answers to check-ins; also the tests' partner
"""
