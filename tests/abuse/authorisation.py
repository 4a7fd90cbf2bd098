"""Every call by every identity, each cell against a table.

The calls come from the service's own list: the methods of proto/atoll.proto, Admin once for each
verb of proto/messages.h. A method or a verb that the table does not have fails the test, so nobody
adds a call without saying who may make it. Nothing that is refused may leave a mark: the ledger is
compared before and after.
"""
import os
import re
import sys

from harness import ROOT, SECONDS, Authority, Run, main, noise

# Outcomes: ok; U unauthenticated; P permission denied; X no such method; - the handshake fails, so
# no call is made; else a code, gRPC's or the protocol's own.
COLUMNS = """
                       stranger site observer revoked admin other_admin
                       other_ca expired early server authority
                       other_run other_key no_such_site nameless two_names forged_name"""
TABLE = """
Join                   ok ok ok ok ok ok            - - - - -  ok ok ok ok ok ok
Join look              ok ok ok ok ok ok            - - - - -  ok ok ok ok ok ok
Join uninvited         secret secret secret secret secret secret - - - - -
                       secret secret secret secret secret secret
Submit                 U ok observer P P P          - - - - -  P  P  P  P  P  P
Submit another's       U signature observer P P P   - - - - -  P  P  P  P  P  P
Submit supply          U duplicate duplicate P P P  - - - - -  P  P  P  P  P  P
Follow                 U ok ok P P P                - - - - -  P  P  P  P  P  P
Snapshot               U ok ok P P P                - - - - -  P  P  P  P  P  P
Heartbeat              U ok ok P P P                - - - - -  P  P  P  P  P  P
Admin status           U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin pause            U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin resume           U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin invite           U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin revoke           U P P P not_found not_found  - - - - -  P  P  P  P  P  P
Admin sites            U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin set_rule         U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin rules            U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin snapshot         U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin invitations      U P P P ok ok                - - - - -  P  P  P  P  P  P
Admin uninvite         U P P P not_found not_found  - - - - -  P  P  P  P  P  P
Admin unknown          U P P P INVALID_ARGUMENT INVALID_ARGUMENT
                       - - - - -  P  P  P  P  P  P
Admin stop             U P P P ok conflict          - - - - -  P  P  P  P  P  P
Nonesuch               X X X X X X                  - - - - -  X  X  X  X  X  X
"""
REFUSED = "U P X - secret signature duplicate observer".split()
CODES = {"U": "UNAUTHENTICATED", "P": "PERMISSION_DENIED", "X": "UNIMPLEMENTED"}
INSTANCE = 7  # all that speak as the honest site speak as one process of it


def grid(text):
    """{row: {column: outcome}}; a row goes on where a line begins with blanks."""
    lines = re.sub(r"\n +", " ", text.strip()).splitlines()
    columns, table = COLUMNS.split(), {}
    for line in lines:
        words = line.split()
        name = " ".join(words[:len(words) - len(columns)])
        table[name] = dict(zip(columns, words[-len(columns):]))
    return table


def service_calls():
    """The rows that must be there: of the service's list, and none beside it."""
    def found(path, pattern):
        with open(os.path.join(ROOT, path)) as file:
            return re.findall(pattern, file.read(), re.M)
    methods = found("proto/atoll.proto", r"^ *rpc (\w+)")
    verbs = [verb.lower() for verb in found("proto/messages.h", r"^ +ADMIN_(\w+) = [1-9]\d*,")
             if verb.lower() not in ADMIN_CODES]
    assert len(methods) >= 6 and len(verbs) >= 9, (methods, verbs)
    return {m for m in methods if m != "Admin"}, {f"Admin {verb}" for verb in verbs}


ADMIN_CODES = "ok denied not_found invalid conflict busy failed".split()


class Scene:
    def __init__(self, run):
        from atoll_client import signed
        self.run, self.tokens = run, 0
        self.root = run.admin()
        self.site, self.other, gone = (run.join(name) for name in ("honest", "other", "gone"))
        observer = run.join("watch", role="observer")
        self.follower = run.follow(self.site, instance=INSTANCE)
        header, signature, message = self.made(self.site)
        self.send(self.follower.connection, header, signature, message)
        self.ledger_entry = header, signature, message
        self.follower.wait(lambda ledger: ledger.merged, SECONDS)
        self.admin(self.root, "revoke", site_name="gone")
        self.identities = {"stranger": (None, None), "site": self.pair(self.site),
                           "observer": self.pair(observer),
                           "revoked": self.pair(gone), **self.made_up()}
        self.signed = signed

    @staticmethod
    def pair(site):
        return site.key_pem, site.certificate_pem

    def made_up(self):
        run, read = self.run, self.run.read
        ours, nobody = Authority(read("ca.pem"), read("ca.key")), Authority()
        name = f"atoll://{run.run_id.hex()}"
        one = name + "/site/1"
        return {
            "admin": (read("admin.key"), read("admin.pem")),
            "other_admin": ours.issue(name + "/admin/eve"),
            "other_ca": nobody.issue(one),
            "expired": ours.issue(one, days=(-9, -1)), "early": ours.issue(one, days=(1, 9)),
            "server": (read("server.key"), read("server.pem")),
            "authority": (read("ca.key"), read("ca.pem")),
            "other_key": ours.issue(one),
            "other_run": ours.issue(f"atoll://{bytes(16).hex()}/site/1"),
            "no_such_site": ours.issue(name + "/site/99"),
            "nameless": ours.issue(None, name="root"),
            "two_names": ours.issue(one, also=[name + "/admin/root"]),
            "forged_name": ours.issue(name + "/site/01")}

    # ---- the calls ----
    def made(self, site):
        """A contribution of the site's that would be accepted next, signed by it."""
        from atoll_client import contribution, signed
        message, norm = noise(self.follower.ledger, seed=self.tokens)
        header = contribution(site, self.follower.ledger, message, norm).pack()
        return header, signed.sign(site.key, signed.CONTRIBUTION_TAG, header), message

    def send(self, connection, header, signature, message, **how):
        from atoll_client import send
        send(connection, header, signature, message, INSTANCE, timeout=SECONDS, **how)

    def admin(self, connection, verb, **fields):
        from atoll_client import admin
        return admin(connection, verb, SECONDS, **fields)

    def status(self, row=""):
        """What nobody may change who is refused. (Invitations for the row Join are entries.)"""
        run = self.admin(self.root, "status").run
        size = 0 if row in ("Join", "Join look") else run.ledger_size
        return size, run.phase, run.version, run.inner_steps, run.sites_active

    def first(self, connection, method, **fields):
        from atoll_client import messages
        from atoll_client.client import METHODS
        raw = messages.frame(METHODS[method][0].encode(protocol=1, **fields))
        stream = connection.call(method, raw, SECONDS)
        next(stream)
        stream.cancel()

    def join(self, connection, look=False, invited=True):
        from atoll_client import Refused, identity
        self.tokens += 1
        name = f"join-{self.tokens}"
        secret = identity.read_token(self.run.token(name)).secret if invited else bytes(24)
        key = identity.new_key()
        reply = connection.ask(
            "Join", SECONDS, protocol_min=1, protocol_max=1, site_name=name, look=look,
            invitation_secret=secret, csr_der=identity.request_der(key))
        if reply.code:
            from atoll_client.client import JOIN_CODES
            raise Refused(JOIN_CODES[reply.code], reply.message)

    def order(self, connection, verb):
        """A verb with what it needs. Its effect is taken back by the root's admin."""
        self.tokens += 1
        fields = {"invite": dict(site_name=f"by-{self.tokens}", expires_ms=1 << 50),
                  "revoke": dict(site_name="nobody"), "uninvite": dict(site_name="nobody"),
                  "set_rule": dict(key="merge.quorum", rule_value="1", reason="a test"),
                  "unknown": {}}.get(verb, {})
        if verb == "resume":
            self.admin(self.root, "pause")
        try:
            self.admin(connection, 99 if verb == "unknown" else verb, **fields)
        finally:
            if verb in ("pause", "resume"):
                self.undo()

    def undo(self):
        if self.status()[1] == 1:
            self.admin(self.root, "resume")

    def call(self, row, connection):
        if row.startswith("Join"):
            self.join(connection, look="look" in row, invited="uninvited" not in row)
        elif row == "Submit supply":
            self.send(connection, *self.ledger_entry, supply=True)
        elif row.startswith("Submit"):
            self.send(connection, *self.made(self.other if "another" in row else self.site))
        elif row in ("Follow", "Snapshot"):
            self.first(connection, row, **({"instance": INSTANCE} if row == "Follow" else {}))
        elif row == "Heartbeat":
            from atoll_client import heartbeat
            heartbeat(connection, timeout=SECONDS, instance=INSTANCE)
        elif row.startswith("Admin "):
            self.order(connection, row.split()[1])
        else:
            connection.channel.unary_unary("/atoll.v1.Atoll/" + row)(bytes(4), timeout=SECONDS)

    def outcome(self, row, identity):
        """What the table says of a cell, as it is."""
        import grpc
        from atoll_client import Connection, Refused
        with Connection(self.run.address, self.run.read("ca.pem"),
                        *self.identities[identity]) as connection:
            try:
                self.call(row, connection)
                return "ok"
            except Refused as refused:
                return refused.code
            except grpc.RpcError as error:
                code = error.code().name
        if code == "UNAVAILABLE":
            return "-"
        return {name: letter for letter, name in CODES.items()}.get(code, code)


def test_the_table_has_every_call_of_the_service_and_no_other():
    methods, verbs = service_calls()
    rows = grid(TABLE)
    orders = {row for row in rows if row.startswith("Admin ")}
    there = {row.split()[0] for row in rows if row not in orders}
    wanted, have = methods | verbs | {"Admin unknown", "Nonesuch"}, there | orders
    assert wanted == have, (f"TABLE lacks {sorted(wanted - have)} and has {sorted(have - wanted)}: "
                            "say in a row who may make the call, and in Scene how it is made")


def test_every_call_by_every_identity_ends_as_the_table_says():
    with Run() as run:
        scene, wrong, cells = Scene(run), [], 0
        for row, wanted in grid(TABLE).items():
            before = scene.status(row)
            refused = [i for i in wanted if wanted[i] in REFUSED]
            for identity in [*refused, *(i for i in wanted if i not in refused)]:
                if identity not in refused and before:
                    # refused cells come first, and have changed nothing
                    if row != "Admin resume" and scene.status(row) != before:
                        wrong.append(f"{row}: what was refused left a mark")
                    before = None
                got, cells = scene.outcome(row, identity), cells + 1
                if got != wanted[identity]:
                    wrong.append(f"{row} by {identity}: {got}, not {wanted[identity]}")
        assert not wrong, "\n".join(wrong)
        assert cells == len(grid(TABLE)) * len(COLUMNS.split()) >= 189
        print(f"{cells} cells")


if __name__ == "__main__":
    sys.exit(main(globals()))
