"""600 races: whatever is asked twice at the same moment counts once, and the ledger says so.

    JOINS    two keys with one invitation: one gets in, the other is told `used`
    REPLAYS  one key with one invitation, three times: the same number three times, one entry
    RIVALS   two contributions of one site and sequence: one is in the ledger, with its receipt
    REPEATS  one contribution on three streams: one entry, and no receipt for any other

An honest site contributes beside them, and all that it sends is accepted.
"""
import sys
import threading

from harness import SECONDS, Run, main, noise, submit

JOINS, REPLAYS, RIVALS, REPEATS = 150, 150, 150, 150
AT_ONCE = 5  # races under way at the same time


def at_once(*calls):
    """Runs them at the same moment; what each returned, or what it raised."""
    results, gate = [None] * len(calls), threading.Barrier(len(calls))

    def run(number, call):
        gate.wait()
        try:
            results[number] = call()
        except Exception as fault:
            results[number] = fault
    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def in_lanes(count, race):
    """race(number) for each, several at a time; the first fault is raised."""
    def lane(first):
        for number in range(first, count, AT_ONCE):
            race(number)
    faults = [f for f in at_once(*[lambda first=first: lane(first) for first in range(AT_ONCE)])
              if f]
    if faults:
        raise faults[0]


def patient_join(run, token, key):
    """`busy` and a moment without connection are answers to ask again after."""
    import grpc
    import atoll_client

    def ask():
        try:
            return atoll_client.join(run.address, token, key, timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE,
                                    grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise
            raise atoll_client.Refused("busy", error.details()) from None
    return atoll_client.patiently(ask, SECONDS)


def codes(results):
    return sorted(getattr(one, "code", "in") for one in results)


def honest(run):
    """A site that contributes until it is told to stop; returns what stops it."""
    follower, over, sent = run.follow(run.join("honest")), threading.Event(), []

    def work():
        while not over.is_set():
            before = follower.ledger.version
            sent.append(submit(follower, seed=len(sent)).index)
            follower.wait(lambda ledger: ledger.version > before, SECONDS)
            over.wait(0.1)
    result = []
    thread = threading.Thread(target=lambda: result.extend(at_once(work)))
    thread.start()

    def stop():
        over.set()
        thread.join()
        assert result == [None], result
        assert sent and sent[-1] in follower.ledger.merged, "the honest site was not served"
        return follower
    return stop


def test_150_races_for_an_invitation_and_150_replays_of_one_are_counted_once_each():
    with Run() as run:
        from atoll_client import signed
        from atoll_client.identity import new_key, public_bytes
        stop, numbers, lock = honest(run), {}, threading.Lock()

        def race(number):
            token = run.token(f"race-{number}")
            keys = [new_key(), new_key()]
            results = at_once(*[lambda key=key: patient_join(run, token, key) for key in keys])
            assert codes(results) == ["in", "used"], results
            winner = next(one for one in results if not isinstance(one, Exception))
            with lock:
                numbers[winner.name] = winner.number, winner.public_key

        def replay(number):
            token, key = run.token(f"replay-{number}"), new_key()
            results = at_once(*[lambda: patient_join(run, token, key)] * 3)
            assert codes(results) == ["in"] * 3, results
            assert len({one.number for one in results}) == 1, results
            with lock:
                numbers[results[0].name] = results[0].number, public_bytes(key)
        in_lanes(JOINS, race)
        in_lanes(REPLAYS, replay)
        ledger = stop().catch_up(seconds=SECONDS)
        added = [e for e in ledger.entries if e.kind == signed.ADDED and e.name != "honest"]
        assert {e.name: (e.site, e.public_key) for e in added} == numbers
        assert len(added) == len(numbers) == JOINS + REPLAYS, len(added)


def test_150_rival_contributions_and_150_repeated_ones_are_counted_once_each():
    with Run() as run:
        import grpc
        from atoll_client import Connection, Refused, contribution, send, signed
        stop = honest(run)
        # rivals look like a copy of the site, and would end it: a person says that there is none
        follower = run.follow(run.join("twice"), restored=True)
        site, ledger = follower.site, follower.ledger
        streams = [run.kept(Connection.of(run.address, site)) for _ in range(3)]
        winners = []

        def ready(seed):
            message, norm = noise(ledger, seed=seed)
            header = contribution(site, ledger, message, norm).pack()
            return header, signed.sign(site.key, signed.CONTRIBUTION_TAG, header), message

        def attempt(stream, one):
            """Its receipt, verified; None where another stream or contribution has its place."""
            try:
                raw = send(stream, *one, follower.instance, timeout=SECONDS)
            except Refused as refused:
                raw = refused.answer.receipt if refused.code == "duplicate" else b""
                assert raw or refused.code in ("sequence", "busy", "rebase", "duplicate"), refused
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.ABORTED, error
                raw = b""
            return signed.read_receipt(raw, site.coordinator_key, *one[:2]) if raw else None

        def race(*ones):
            """Tries until one of them is in; how many different entries the receipts name."""
            before = ledger.sites[site.number].last_sequence
            receipts = []
            while not receipts:
                results = at_once(*[lambda stream=stream, one=one: attempt(stream, one)
                                    for stream, one in zip(streams, ones)])
                faults = [one for one in results if isinstance(one, Exception)]
                assert not faults, faults
                receipts += [one for one in results if one]
            assert len({(r.index, r.header_digest) for r in receipts}) == 1, receipts
            follower.wait(lambda l: l.sites[site.number].last_sequence > before and not
                          [c for c in l.waiting.values() if c.site == site.number], SECONDS)
            winners.append((receipts[0].index, receipts[0].header_digest))
        for number in range(RIVALS):
            race(ready(2 * number), ready(2 * number + 1))
        for number in range(REPEATS):
            race(*[ready(number)] * 3)
        stop()
        follower.catch_up(seconds=SECONDS)
        entries = [e for e in ledger.entries
                   if e.kind == signed.CONTRIBUTION and e.contribution.site == site.number]
        assert [(e.index, signed.sha256(e.header)) for e in entries] == winners
        assert len(entries) == RIVALS + REPEATS
        sequences = [e.contribution.sequence for e in entries]
        assert sequences == sorted(set(sequences)), sequences
        merged = [i for e in ledger.entries if e.kind == signed.STEP for i, _ in e.parts]
        assert len(merged) == len(set(merged)) and {e.index for e in entries} <= set(merged)


if __name__ == "__main__":
    sys.exit(main(globals()))
