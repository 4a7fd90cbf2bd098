"""A thin command line: python -m atoll_client COMMAND. Results on stdout as JSON, one per line."""
import argparse
import json
import os
import secrets
import sys

import grpc

from . import Connection, Follower, Refused, Site, Untrue, admin, heartbeat, join
from . import patiently, snapshot, submit
from .client import VERBS
from .identity import key_pem, load_key, new_key, write_private
from .ledger import KINDS


def show(**what):
    def plain(value):
        return value.hex() if isinstance(value, bytes) else vars(value)
    print(json.dumps(what, default=plain), flush=True)


def do_join(a):
    """The key is on disk before the invitation is used, so a join that was cut off can be given
    again."""
    token = sys.stdin.readline() if a.token_file == "-" else open(a.token_file).read()
    os.makedirs(a.dir, mode=0o700, exist_ok=True)
    path = os.path.join(a.dir, "node.key")
    if not os.path.exists(path):
        write_private(path, key_pem(new_key()))
    site = join(a.server, token, load_key(path))
    site.save(a.dir)
    show(site=site.number, name=site.name, run=site.run_id)


def do_follow(a):
    """Every entry, verified, as it comes; with --once those that there are."""
    follower = Follower(a.server, Site.load(a.dir))
    if a.once:
        follower.catch_up(payloads=a.payloads)
        for entry in follower.ledger.entries:
            show_entry(entry)
        show(verified=follower.verified_size, version=follower.ledger.version)
        return
    for entries in follower.frames(payloads=a.payloads):
        for entry in entries:
            show_entry(entry)


def show_entry(e):
    show(index=e.index, kind=KINDS[e.kind], epoch=e.epoch, time_ms=e.time_ms)


def do_submit(a):
    import numpy
    from . import codec
    site = Site.load(a.dir)
    follower = Follower(a.server, site)
    ledger = follower.catch_up(payloads=False)
    count = ledger.fragment_range(a.fragment)[1]
    delta = numpy.fromfile(a.delta, "<f4")
    if len(delta) != count:
        raise SystemExit(f"{a.delta} has {len(delta)} values of fp32, the fragment {count}")
    message, sent = codec.encode(ledger.codec_of(ledger.version), delta)
    receipt = patiently(lambda: submit(
        follower.connection, site, ledger, message, codec.norm(sent), fragment=a.fragment,
        tokens=a.tokens, loss=a.loss, instance=follower.instance))
    show(index=receipt.index, sequence=receipt.sequence)


def do_snapshot(a):
    site = Site.load(a.dir)
    with Connection.of(a.server, site) as connection:
        descriptor, content = snapshot(connection, site)
    with open(a.output, "wb") as file:
        file.write(content)
    show(version=descriptor.version, root=descriptor.root, bytes=len(content))


def do_heartbeat(a):
    with Connection.of(a.server, Site.load(a.dir)) as connection:
        instance = secrets.randbits(63) + 1
        show(**vars(patiently(lambda: heartbeat(connection, instance=instance))))


def do_admin(a):
    fields = {"site_name": a.name, "reason": a.reason, "value": a.value}
    with Connection.of_admin(a.server, a.keys) as connection:
        show(**vars(admin(connection, a.verb, **{k: v for k, v in fields.items() if v})))


def parse(arguments):
    parser = argparse.ArgumentParser("atoll_client", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name, run, *options):
        one = commands.add_parser(name, description=run.__doc__)
        one.add_argument("--server", required=True, metavar="HOST:PORT")
        for flag, how in options:
            one.add_argument(flag, **how)
        one.set_defaults(run=run)
    directory = ("--dir", {"required": True, "help": "the site's directory"})
    command("join", do_join, directory, ("--token-file", {"default": "-", "help": "-: from stdin"}))
    command("follow", do_follow, directory, ("--payloads", {"action": "store_true"}),
            ("--once", {"action": "store_true", "help": "end at the ledger's end"}))
    command("submit", do_submit, directory, ("--fragment", {"type": int, "default": 0}),
            ("--delta", {"required": True, "help": "base minus local, fp32, raw"}),
            ("--tokens", {"type": int, "default": 1}), ("--loss", {"type": float, "default": 0}))
    command("snapshot", do_snapshot, directory, ("--output", {"required": True}))
    command("heartbeat", do_heartbeat, directory)
    command("admin", do_admin, ("verb", {"choices": list(VERBS)}),
            ("--keys", {"required": True, "help": "with ca.pem, admin.pem, admin.key"}),
            ("--name", {}), ("--reason", {}), ("--value", {"type": int}))
    return parser.parse_args(arguments)


def main():
    arguments = parse(sys.argv[1:])
    try:
        arguments.run(arguments)
    except (Refused, Untrue) as fault:
        raise SystemExit(str(fault))
    except grpc.RpcError as fault:
        raise SystemExit(f"{fault.code().name}: {fault.details()}")


if __name__ == "__main__":
    main()
