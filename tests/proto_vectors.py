#!/usr/bin/env python3
"""Writes tests/golden/proto_messages.txt: messages of proto/atoll.proto as Google's own protobuf
implementation encodes them.

Needs the Python packages protobuf and grpcio-tools (for its protoc). Run from the repository root:
    python3 tests/proto_vectors.py > tests/golden/proto_messages.txt
Each line: a name, the message type, the bytes in hexadecimal. Every field of the schema is set in
at least one of them, each to another value, so that fields which change places are noticed.
tests/proto_messages_test.c holds the values a second time.
"""
import importlib, os, sys, tempfile
from grpc_tools import protoc

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
with tempfile.TemporaryDirectory() as out:
    if protoc.main(['protoc', '-I' + os.path.join(root, 'proto'), '--python_out=' + out,
                    'atoll.proto']):
        sys.exit('protoc failed')
    sys.path.insert(0, out)
    pb = importlib.import_module('atoll_pb2')


def pattern(start, size):
    return bytes((start + i) % 256 for i in range(size))


def lost(*pairs):
    return [pb.LostTime(cause=c, ms=ms) for c, ms in pairs]


U64 = 2**64 - 1
vectors = {
    'join_request': pb.JoinRequest(protocol_min=1, protocol_max=3, site_name='eu-1',
                                   invitation_secret=pattern(1, 32),
                                   csr_der=pattern(2, 300), software='atoll-node 0.1.0', look=True),
    'join_reply': pb.JoinReply(code=0, message='welcome', protocol=1, run_id=pattern(3, 16), site=7,
                               certificate_pem=pattern(4, 700), ca_pem=pattern(5, 600),
                               coordinator_key=pattern(6, 32),
                               manifest=pattern(7, 2000), server_time_ms=1767225600123,
                               role=1),
    'join_reply_no': pb.JoinReply(code=3, message='the invitation was used by another key',
                                  server_time_ms=1767225600124),
    'submit_open': pb.SubmitFrame(open=pb.SubmitOpen(protocol=1, header=pattern(8, 272),
                                                     signature=pattern(9, 64), waits=True,
                                                     instance=2**63 + 38, supply=True)),
    'submit_chunk': pb.SubmitFrame(chunk=pb.SubmitChunk(offset=5000000000)),
    'submit_credit': pb.SubmitReply(credit=pb.SubmitCredit(resume_offset=5000000001,
                                                           chunk_limit=65536)),
    'submit_receipt': pb.SubmitReply(receipt=pb.SubmitReceipt(receipt=pattern(10, 400))),
    'submit_refusal': pb.SubmitReply(refusal=pb.SubmitRefusal(
        code=5, message='twice – already here', retry_after_ms=1500,
        current_version=42, receipt=pattern(11, 300))),
    'follow_request': pb.FollowRequest(protocol=1, from_index=1000, payloads_from_index=900,
                                       omit_own=True, chunk_limit=262144, instance=2**63 + 39,
                                       made_plus_1=44, restored=True),
    'follow_frame': pb.FollowFrame(
        entries=[pattern(12, 70), pattern(13, 349), pattern(14, 71)], first_index_plus_1=1001,
        own=[pb.FollowOwn(place=1, sequence=12, time_ms=1767225600125, epoch=2, header=0xa1b2c3d4),
             pb.FollowOwn(place=4, sequence=13, time_ms=1767225600126, epoch=3, header=0xd4c3b2a1)],
        head=pattern(15, 150), dropped=[1002, 1001]),
    'follow_piece': pb.FollowFrame(payload_index=1003, payload_offset=1048576,
                                   payload_total=1048676),
    'snapshot_request': pb.SnapshotRequest(protocol=1, version=77, offset=123456789012),
    'snapshot_frame': pb.SnapshotFrame(offset=4194304, total=50000000, descriptor=pattern(16, 333)),
    'heartbeat_request': pb.HeartbeatRequest(
        protocol=1, epoch=2, version=33, ledger_size=444, phase=5, inner_steps_done=6666,
        tokens=7777777, tokens_per_second=8888.5, steps_per_second=0.25, loss=2.5, staleness=11,
        bytes_up=121212, bytes_down=131313, compute_ms=141414,
        lost=lost((0, 150), (1, 151), (2, 152), (3, 153), (4, 154), (5, 155),
                  (6, 156)), rounds=161, refused=17, device='2x H100', software='atoll-node 0.1.0',
        last_root=pattern(20, 32), instance=2**63 + 40, turn=41, time_ms=1767225600131,
        leaving=True, has_heldout=True, heldout_version=55, heldout=2.25, best_version=54,
        best_heldout=2.125),
    'heartbeat_reply': pb.HeartbeatReply(code=6, message='paused by the admin', inner_steps=50,
                                         epoch=2, version=34, phase=1, server_time_ms=1767225600127,
                                         sites_present=37, turn=42, copies=43, wanted=[300, 5],
                                         has_left=True),
    'admin_request': pb.AdminRequest(protocol=1, verb=6, site_name='eu-1', reason='key lost',
                                     value=99, expires_ms=1767225600128, first_site=3,
                                     key='merge.quorum',
                                     rule_value='7', role=1),
    'admin_reply': pb.AdminReply(code=4, message='already paused', run=pb.RunStatus(
        run_id=pattern(21, 16), name='demo', phase=1, version=35, ledger_size=445, tokens=8888888,
        epoch=2, parameters=1330000, root=pattern(22, 32), root_version=30, accepted=140,
        refused=[pb.CodeCount(code=1, count=9), pb.CodeCount(code=7, count=11)], pending=2,
        uptime_ms=3600000, bytes_in=15151515, bytes_out=16161616, inner_steps=50, sites_active=4,
        reason='lunch', token_budget=10**12, sites_connected=3, waits='the disk is full',
        weights=50, has_heldout=True, heldout_version=53, heldout=2.125,
        best_version=54, best_heldout=1.875, heldout_rises=True,
        sites_twice=46, clock_ahead_ms=-47, sites_present=52), sites=[
            pb.SiteStatus(site=1, name='eu-1', revoked=True, connected=True, version=34,
                          staleness=1, loss=2.25, tokens=808, tokens_per_second=9.5,
                          contributions=10, refused=11, bytes_up=12, bytes_down=13, compute_ms=14,
                          lost=lost((2, 15)), last_seen_ms_ago=16, device='cpu',
                          software='atoll-node 0.1.0', inner_steps=19, copies=44, copy_ms_ago=45,
                          norm=46.5, clip=0.25, scale=0.125, tokens_uncounted=49, weight=1.75,
                          presence=2, age=54, role=1, has_heldout=True, heldout_version=57,
                          heldout=3.25, best_version=56, best_heldout=3.125),
            pb.SiteStatus(site=4, name='us-é', last_seen_ms_ago=U64)], next_site=5,
                                 invitation_secret=pattern(23, 24), head=pattern(24, 160),
                                 value=36,
                                 rules=pattern(25, 40),
                                 address='coordinator.example:7400', invitations=[
                                     pb.InvitationStatus(name='eu-2', made_ms=1767225600132,
                                                         expires_ms=1767225600133, end=3,
                                                         role=1),
                                     pb.InvitationStatus(name='us-é', made_ms=48)]),
}
for name, message in vectors.items():
    print(name, message.DESCRIPTOR.name, message.SerializeToString(deterministic=True).hex() or '-')
