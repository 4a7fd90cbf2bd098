"""A verified copy of the ledger, as far as it has come, and what follows from it.

`append` takes entries in order and checks what can be checked without the model: forms, signatures,
chains, who may be in which entry. `check_head` compares with the coordinator's signed word, `check_
payload` with the header that names a payload. Anything that does not hold is `Untrue`.
"""
from types import SimpleNamespace

from . import signed
from .signed import Untrue, sha256

PHASES = {signed.PAUSED: "paused", signed.RESUMED: "active", signed.STOPPED: "stopped"}


class Ledger:
    def __init__(self, run_id, coordinator_key, keep_entries=True):
        self.run_id, self.coordinator_key = run_id, coordinator_key
        self.tree, self.entries, self.keep = signed.Tree(), [], keep_entries
        self.sites = {}  # number: name, public_key, revoked, last_sequence, last_digest
        self.invited = {}  # secret's digest: (name, role); at most one of each name
        self.waiting = {}  # index: the contribution's header, until a step merges it or it drops
        self.merged = {}  # index: version of the step
        self.dropped = set()
        self.genesis = self.manifest_digest = None
        self.manifest = {}
        self.version, self.epoch, self.phase, self.inner_steps = 0, 1, "active", 0

    def __len__(self):
        return len(self.tree)

    def append(self, raw):
        """Returns the entry, decoded; `entry.index` is its place."""
        entry = signed.decode_entry(raw)
        entry.index, entry.raw = len(self.tree), raw
        if (entry.index == 0) != (entry.kind == signed.GENESIS):
            raise Untrue(f"entry {entry.index}: only entry 0 is a genesis, and it must be")
        if entry.epoch < self.epoch:
            raise Untrue(f"entry {entry.index}: of epoch {entry.epoch}, after {self.epoch}")
        if entry.epoch > self.epoch and entry.kind != signed.EPOCH:
            raise Untrue(f"entry {entry.index}: epoch {entry.epoch} has not begun")
        getattr(self, "_" + KINDS[entry.kind])(entry)
        self.tree.append(raw)
        if self.keep:
            self.entries.append(entry)
        return entry

    # ---- the kinds ----
    def _genesis(self, entry):
        if entry.run_id != self.run_id or entry.coordinator_key != self.coordinator_key:
            raise Untrue("entry 0: another run, or another coordinator's key, than was joined")
        self.genesis, self.manifest_digest = entry, sha256(entry.manifest)
        for line in entry.manifest.decode().splitlines():
            key, _, value = line.partition(": ")
            self.manifest[key] = value
        self.inner_steps = int(self.manifest["inner.inner_steps"])
        self.codecs = [(0, self.manifest["codec.kind"])]  # for bases from that version on

    def codec_of(self, base_version):
        return [kind for version, kind in self.codecs if version <= base_version][-1]

    def _invited(self, entry):
        self._end_invitation(entry.name)  # a newer one replaces it
        self.invited[entry.secret_digest] = entry.name, entry.role

    def _uninvited(self, entry):
        if entry.name not in (name for name, _ in self.invited.values()):
            raise Untrue(f"entry {entry.index}: no invitation of {entry.name} is open")
        self._end_invitation(entry.name)

    def _end_invitation(self, name):
        self.invited = {secret: other for secret, other in self.invited.items()
                        if other[0] != name}

    def _added(self, entry):
        if entry.site != len(self.sites) + 1:
            raise Untrue(f"entry {entry.index}: site {entry.site} is not the next number")
        name, role = self.invited.pop(entry.secret_digest, (None, 0))
        if name != entry.name:
            raise Untrue(f"entry {entry.index}: nobody invited {entry.name}, or it came twice")
        self.sites[entry.site] = SimpleNamespace(
            name=entry.name, public_key=entry.public_key, revoked=False, last_sequence=0,
            last_digest=signed.ZERO, presence="present", observes=role == 1)

    def _revoked(self, entry):
        site = self._site(entry, entry.site)
        site.revoked = True
        self._end_invitation(site.name)
        for index in [i for i, c in self.waiting.items() if c.site == entry.site]:
            self._give_up(index)

    def _contribution(self, entry):
        # the signature is over the bytes as they are, so it comes before their meaning
        number = int.from_bytes(entry.header[24:28], "little")
        site = self._site(entry, number)
        what = f"entry {entry.index}, a contribution of {site.name}"
        signed.verify(site.public_key, signed.CONTRIBUTION_TAG, entry.header, entry.signature, what)
        c = entry.contribution = signed.Contribution.unpack(entry.header)
        if (c.run_id, c.manifest_digest, c.layout_digest) != (
                self.run_id, self.manifest_digest, self.genesis.layout_digest):
            raise Untrue(f"{what}: made for another run, manifest or layout")
        if site.observes:
            raise Untrue(f"{what}: of an observer")
        if site.revoked or c.epoch != self.epoch or c.base_version > self.version:
            raise Untrue(f"{what}: of a revoked site, another epoch, or a version to come")
        if c.codec != signed.CODEC_CODES.get(self.codec_of(c.base_version)):
            raise Untrue(f"{what}: in another codec than the run's for its base")
        if c.began_version > c.base_version:
            raise Untrue(f"{what}: its oldest step began after its base")
        if c.sequence <= site.last_sequence or c.previous != site.last_digest:
            raise Untrue(f"{what}: sequence {c.sequence} does not follow {site.last_sequence}")
        site.last_sequence, site.last_digest = c.sequence, sha256(entry.header)
        self.waiting[entry.index] = c

    def _step(self, entry):
        if self.version + 1 != entry.version or not entry.parts:
            raise Untrue(f"entry {entry.index}: a step to {entry.version} after {self.version}")
        indices = [index for index, _ in entry.parts]
        if indices != sorted(set(indices)):
            raise Untrue(f"entry {entry.index}: a step's parts are out of order")
        for index, scale in entry.parts:
            part = self.waiting.pop(index, None)
            if not part or part.fragment != entry.fragment or not 0 <= scale < float("inf"):
                raise Untrue(f"entry {entry.index}: {index} does not wait for this step")
            self.merged[index] = entry.version
        self.version = entry.version

    def _dropped(self, entry):
        if entry.dropped_index not in self.waiting:
            raise Untrue(f"entry {entry.index}: drops what does not wait")
        self._give_up(entry.dropped_index)

    def _phase(self, entry):
        self.phase = PHASES[entry.kind]

    def _epoch(self, entry):
        if entry.epoch <= self.epoch:
            raise Untrue(f"entry {entry.index}: epoch {entry.epoch} after {self.epoch}")
        self.epoch = entry.epoch

    def _presence(self, entry):
        site, word = self._site(entry, entry.site), PRESENCE[entry.kind]
        if site.observes:
            raise Untrue(f"entry {entry.index}: site {entry.site} observes, and never counts")
        if site.revoked or site.presence == word or (site.presence, word) == ("left", "away"):
            raise Untrue(f"entry {entry.index}: site {entry.site} is {site.presence} already")
        site.presence = word

    def _rule(self, entry):
        if entry.key not in self.manifest:
            raise Untrue(f"entry {entry.index}: there is no key {entry.key}")
        self.manifest[entry.key] = entry.value
        if entry.key == "codec.kind":
            self.codecs.append((self.version + 1, entry.value))
        if entry.key == "inner.inner_steps":
            self.inner_steps = int(entry.value)

    def _give_up(self, index):
        del self.waiting[index]
        self.dropped.add(index)

    def _site(self, entry, number):
        if number not in self.sites:
            raise Untrue(f"entry {entry.index}: there is no site {number}")
        return self.sites[number]

    # ---- comparisons ----
    def check_head(self, raw):
        head = signed.read_head(raw, self.coordinator_key)
        if head.run_id != self.run_id:
            raise Untrue("a ledger head of another run")
        if head.size > len(self.tree):
            raise Untrue(f"a ledger head of {head.size} entries, of which {len(self.tree)} came")
        self.check_root(head.size, head.root)
        return head

    def check_root(self, size, root):
        """Of a head or a receipt: both are the coordinator's word on the first `size` entries."""
        if self.tree.root(size) != root:
            raise Untrue(f"the first {size} entries are not those that the coordinator signed")

    def fragment_range(self, fragment):
        """First element and count: fragments end at multiples of 4096, the last at the end."""
        parameters, fragments = self.genesis.parameters, int(self.manifest["fragments"])
        chunks = parameters // 4096
        start = chunks * fragment // fragments * 4096
        end = (parameters if fragment + 1 == fragments
               else chunks * (fragment + 1) // fragments * 4096)
        return start, end - start


def check_payload(contribution, payload):
    if len(payload) != contribution.payload_size:
        raise Untrue(f"a payload of {len(payload)} bytes, not {contribution.payload_size}")
    if sha256(payload) != contribution.payload_digest:
        raise Untrue("a payload is not the one that its header names")


PRESENCE = {signed.AWAY: "away", signed.BACK: "present", signed.LEFT: "left"}
KINDS = {signed.GENESIS: "genesis", signed.INVITED: "invited", signed.ADDED: "added",
         signed.REVOKED: "revoked", signed.CONTRIBUTION: "contribution", signed.STEP: "step",
         signed.PAUSED: "phase", signed.RESUMED: "phase", signed.STOPPED: "phase",
         signed.EPOCH: "epoch", signed.RULE: "rule", signed.DROPPED: "dropped",
         signed.UNINVITED: "uninvited", signed.AWAY: "presence", signed.BACK: "presence",
         signed.LEFT: "presence"}
