"""Asks a simulator for KV events it has sent before, by libzmq, and prints each message of the answer as a line of JSON.

kv_replay.py PORT FIRST [req]; FIRST is the number of the first message wanted. With `req` the asking socket is a REQ, which
libzmq lets read only the first message; otherwise a DEALER.
"""

import json
import sys

import msgpack
import zmq

PATIENCE_MS = 30_000

port, first = int(sys.argv[1]), int(sys.argv[2])
once = sys.argv[3:] == ["req"]
socket = zmq.Context.instance().socket(zmq.REQ if once else zmq.DEALER)
socket.setsockopt(zmq.LINGER, 0)
socket.setsockopt(zmq.HEARTBEAT_IVL, 50)
socket.connect(f"tcp://127.0.0.1:{port}")
number = first.to_bytes(8, "big")
socket.send_multipart([number] if once else [b"", number])

while True:
    if not socket.poll(PATIENCE_MS):
        sys.exit("no answer")
    frames = socket.recv_multipart()
    if not once:
        assert frames.pop(0) == b"", "no delimiter"
    payload, sequence = frames.pop(), frames.pop()
    message = {
        "topic": [f.decode() for f in frames],
        "sequence": int.from_bytes(sequence, "big"),
        "sequence_bytes": len(sequence),
    }
    if payload:
        _, message["events"], message["rank"] = msgpack.unpackb(payload, strict_map_key=False)
    print(json.dumps(message), flush=True)
    if once or not payload:
        break
