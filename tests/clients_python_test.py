"""What tests/clients_python_test.sh runs: a client of the documents joins, follows with
verification and submits."""
import base64
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "abuse"))
from harness import CLIENT, ROOT, SECONDS, Run, delta, main, needed, submit  # noqa: E402

CODECS = "fp32", "bf16", "int8", "fp4", "topk2-64", "topk2-128"


def replay(follower, model):
    from atoll_client import signed
    for entry in follower.ledger.entries:
        if entry.kind == signed.STEP and entry.version == model.version + 1:
            model.step(entry, follower.payloads)


def check_codec(kind):
    needed()
    from atoll_client import snapshot
    from atoll_client.model import Model
    with Run(kind, fragments=2) as run:
        follower = run.follow(run.join("python"), keep_payloads=True)
        model = Model(follower.ledger)
        model.load(*snapshot(follower.connection, follower.site))
        for number in range(4):
            receipt = submit(follower, number % 2, number)
            follower.wait(lambda l: l.version > number and not follower.missing(), SECONDS)
            follower.ledger.check_root(receipt.size, receipt.root)
            assert receipt.index in follower.ledger.merged
        follower.catch_up()
        replay(follower, model)
        status = run.federation.status()
        assert model.version == status["version"] == 4, (model.version, status)
        assert model.root().hex() == status["state_root"]
        assert status["accepted"] == 4 and status["refused"] == {}, status


def test_the_clients_messages_and_codes_are_those_of_the_schema_and_the_headers():
    needed()
    from atoll_client import client, ledger, messages

    def source(path):
        with open(os.path.join(ROOT, path)) as file:
            return file.read()
    kinds = {"uint32": "uint", "uint64": "uint", "sint64": "sint", "string": "text"}
    written = {}
    schema = source("proto/atoll.proto")
    for name, body in re.findall(r"^message (\w+) {(.*?)^}", schema, re.M | re.S):
        fields = re.findall(r"^ +(repeated )?(\w+) (\w+) = (\d+);", body, re.M)
        written[name] = {(int(number), kinds.get(kind, kind), field, bool(repeated))
                         for repeated, kind, field, number in fields}
    known = {}

    def collect(message):
        known[message.name] = set()
        for number, kind, field, repeated in message.by_number.values():
            inner = isinstance(kind, messages.Message)
            known[message.name].add((number, kind.name if inner else kind, field, repeated))
            if inner:
                collect(kind)
    for request, reply, _ in client.METHODS.values():
        collect(request)
        collect(reply)
    differ = {name: known.get(name, set()) ^ fields for name, fields in written.items()}
    assert known == written, {name: fields for name, fields in differ.items() if fields}

    def codes(path, prefix):
        found = re.findall(rf"\b{prefix}(\w+) =\s+(\d+)[,\s]", source(path))
        return {int(number): name.lower() for name, number in found}
    for names, path, prefix in ((client.REFUSALS[1:], "fed/receipt.h", "REFUSED_"),
                                (client.JOIN_CODES, "proto/messages.h", "JOIN_")):
        wanted = codes(path, prefix)
        assert {n: name for n, name in enumerate(names, 1 - (prefix == "JOIN_"))} == wanted, wanted
    kinds = codes("fed/ledger.h", "LEDGER_")
    assert set(ledger.KINDS) == set(kinds), kinds
    listed = re.search(r"enum admin_verb {(.*?)}", source("proto/messages.h"), re.S).group(1)
    verbs = re.findall(r"ADMIN_(\w+) = (\d+)", listed)
    assert client.VERBS == {name.lower(): int(number) for name, number in verbs}, verbs


def test_contributions_in_fp32_and_bf16_are_accepted_and_move_the_model_as_the_client_computes():
    for kind in CODECS[:2]:
        check_codec(kind)
        os.rename("federation", kind)


def test_contributions_in_int8_and_fp4_are_accepted_and_move_the_model_as_the_client_computes():
    for kind in CODECS[2:4]:
        check_codec(kind)
        os.rename("federation", kind)


def test_contributions_in_topk2_are_accepted_and_move_the_model_as_the_client_computes():
    for kind in CODECS[4:]:
        check_codec(kind)
        os.rename("federation", kind)


def test_what_real_sites_train_is_verified_and_replayed_to_the_same_state_roots():
    needed()
    from atoll_client import signed, snapshot
    from atoll_client.model import Model
    with Run(snapshot_interval=1000) as run:
        for name in ("one", "two"):
            run.federation.add_site(name, "--throttle", "8")
        follower = run.follow(run.join("python"), keep_payloads=True)
        descriptor, content = snapshot(follower.connection, follower.site)
        follower.wait(lambda ledger: ledger.version >= descriptor.version + 8, SECONDS)
        submit(follower, tokens=96)
        number = follower.site.number
        follower.wait(lambda ledger: ledger.sites[number].last_sequence == 1, SECONDS)
        follower.stop()
        model = Model(follower.ledger)
        model.load(descriptor, content)
        last = max(e.version for e in follower.ledger.entries
                   if e.kind == signed.STEP and all(i in follower.payloads for i, _ in e.parts))
        while model.version < last:
            version = model.version
            replay(follower, model)
            assert model.version > version, (version, last)
        contributors = {e.contribution.site for e in follower.ledger.entries
                        if e.kind == signed.CONTRIBUTION}
        assert len(contributors) == 3, contributors
        assert follower.verified_size > 0


def test_a_site_goes_on_after_a_restart_and_sends_a_lost_message_again():
    with Run() as run:
        site = run.join("python")
        first = run.follow(site)
        receipt = submit(first, seed=1)
        ledger = first.wait(lambda ledger: len(ledger.merged) == 1, SECONDS)
        entry = ledger.entries[receipt.index]
        again = entry.header, entry.signature
        first.close()
        second = run.follow(site)
        from atoll_client import Refused, signed
        from atoll_client.client import send as send_raw
        try:
            send_raw(second.connection, *again, b"", second.instance)
            raise AssertionError("a second receipt for one contribution")
        except Refused as refused:
            assert refused.code == "duplicate", refused
            old = signed.read_receipt(refused.answer.receipt, site.coordinator_key, *again)
            assert old.index == receipt.index
        assert submit(second, seed=2).sequence == 2


def test_wrong_contributions_are_refused_by_the_code_that_the_document_names():
    with Run() as run:
        from atoll_client import Refused, codec, submit
        follower = run.follow(run.join("python"))
        ledger, count = follower.ledger, follower.ledger.fragment_range(0)[1]
        message, sent = codec.encode("topk2-64", delta(count, 1))
        norm = codec.norm(sent)
        wrong = {
            "norm": dict(norm=norm * 2), "digest": dict(payload_digest=bytes(32)),
            "run": dict(run_id=bytes(16)), "layout": dict(layout_digest=bytes(32)),
            "epoch": dict(epoch=9), "base": dict(base_version=5), "malformed": dict(fragment=7),
            "sequence": dict(previous=bytes([1]) * 32), "expired": dict(signed_at_ms=1),
            "unknown_site": dict(site=2), "signature": dict(key_id=bytes(8)),
            "nonfinite": dict(norm=float("nan")), "size": dict(payload_size=1 << 40)}

        def ask(norm, **fields):
            return submit(follower.connection, follower.site, ledger, message, norm,
                          instance=follower.instance, timeout=SECONDS, **fields)
        for code, fields in wrong.items():
            try:
                ask(fields.pop("norm", norm), **fields)
                raise AssertionError(f"accepted, though {code} is wrong")
            except Refused as refused:
                assert refused.code == code, (code, refused)
        assert ask(norm).sequence == 1


def test_a_ledger_that_was_changed_on_its_way_is_found_out():
    with Run() as run:
        from atoll_client import Ledger, Untrue
        site = run.join("python")
        follower = run.follow(site)
        for seed in range(2):
            submit(follower, seed=seed)
            follower.wait(lambda ledger: ledger.version > seed, SECONDS)
        follower.stop()
        whole = [entry.raw for entry in follower.ledger.entries]

        def fails(entries):
            ledger = Ledger(site.run_id, site.coordinator_key)
            try:
                for raw in entries:
                    ledger.append(raw)
                ledger.check_root(len(whole), follower.ledger.tree.root())
            except Untrue:
                return True
            return False
        assert not fails(whole)
        for index, raw in enumerate(whole):
            changed = bytearray(raw)
            changed[9] ^= 1  # in the time: every kind has it, no rule reads it
            assert fails([*whole[:index], bytes(changed), *whole[index + 1:]]), index
            if index < len(whole) - 1:
                assert fails([*whole[:index], *whole[index + 1:], whole[-1]]), index
        contribution = next(i for i, raw in enumerate(whole) if raw[0] == 5)
        for at in range(13, len(whole[contribution]), 7):
            changed = bytearray(whole[contribution])
            changed[at] ^= 1
            ledger = Ledger(site.run_id, site.coordinator_key)
            try:
                for raw in [*whole[:contribution], bytes(changed)]:
                    ledger.append(raw)
                raise AssertionError(f"byte {at} of a contribution was changed, unseen")
            except Untrue:
                pass


def test_the_command_line_joins_follows_submits_and_asks():
    with Run() as run:
        token = run.federation.invite("python")["token"]

        def ask(*arguments, code=0, said=None):
            environment = dict(os.environ, PYTHONPATH=CLIENT, PYTHONDONTWRITEBYTECODE="1")
            done = subprocess.run([sys.executable, "-m", "atoll_client", *arguments], input=said,
                                  capture_output=True, text=True, timeout=3 * SECONDS,
                                  env=environment)
            assert done.returncode == code, (arguments, done.returncode, done.stderr)
            return [json.loads(line) for line in done.stdout.splitlines()] or done.stderr
        at = ["--server", run.address]
        site = ["--dir", "site", *at]
        assert ask("join", *site, said=token)[0]["name"] == "python"
        parameters = run.federation.status()["parameters"]
        delta(parameters, 1).tofile("delta")
        assert ask("submit", *site, "--delta", "delta", "--tokens", "7")[0]["sequence"] == 1
        kinds = [line["kind"] for line in ask("follow", *site, "--once")[:-1]]
        assert kinds[:3] == ["genesis", "invited", "added"], kinds
        assert kinds.count("contribution") == 1, kinds
        assert ask("heartbeat", *site)[0]["sites_present"] == 1
        assert ask("snapshot", *site, "--output", "snapshot")[0]["bytes"] == 8 + 10 * parameters
        keys = ["--keys", "federation/run/keys", *at]
        assert ask("admin", "revoke", *keys, "--name", "python")[0]["code"] == 0
        assert "revoked" in ask("submit", *site, "--delta", "delta", code=1)
        assert "not_found" in ask("admin", "revoke", *keys, "--name", "nobody", code=1)


def test_a_directory_that_the_client_made_is_one_of_atoll_node_and_the_other_way_round():
    with Run() as run:
        from atoll_client import Site, heartbeat
        site = run.join("python")
        site.save("made-here")
        mode = os.stat("made-here/node.key").st_mode & 0o777
        assert mode == 0o600, oct(mode)
        loaded = Site.load("made-here")
        assert (loaded.number, loaded.public_key) == (site.number, site.public_key)
        assert loaded.manifest == site.manifest
        node = run.federation.add_site("one", start=False)
        follower = run.follow(Site.load(node.directory))
        assert submit(follower).site == 2
        reply = heartbeat(follower.connection, follower.ledger, instance=follower.instance)
        assert reply.sites_present >= 1


def test_an_invitation_serves_one_key_and_that_one_as_often_as_it_asks():
    with Run() as run:
        from atoll_client import Refused, join
        from atoll_client.identity import new_key
        token, key = run.federation.invite("python")["token"], new_key()
        assert join(run.address, token, key, look=True).site == 0
        assert join(run.address, token, key).number == join(run.address, token, key).number == 1
        raw = bytearray(base64.urlsafe_b64decode(token + "=="))
        raw[10] ^= 1  # in the secret
        changed = base64.urlsafe_b64encode(raw).decode()
        for other, given, code in ((new_key(), token, "used"), (key, changed, "secret")):
            try:
                join(run.address, given, other)
                raise AssertionError("joined")
            except Refused as refused:
                assert refused.code == code, refused


def test_an_invitation_that_was_replaced_or_withdrawn_is_void_to_the_client_too():
    with Run() as run:
        from atoll_client import Connection, Refused, admin, join
        old, new = (run.federation.invite("late")["token"] for _ in range(2))
        follower = run.follow(run.join("python"))
        assert list(follower.ledger.invited.values()) == [("late", 0)], follower.ledger.invited
        with Connection.of_admin(run.address, os.path.join(run.federation.run, "keys")) as root:
            for token in (old, new):
                if token == new:
                    admin(root, "uninvite", site_name="late")
                try:
                    join(run.address, token)
                    raise AssertionError("joined")
                except Refused as refused:
                    assert refused.code == "void", refused
        follower.wait(lambda ledger: not ledger.invited, SECONDS)


if __name__ == "__main__":
    sys.exit(main(globals()))
