"""A server dies: how long until clients are answered by the one in its place."""
import json
import sys
import time

from cases.case import Case, Metric
from lab import BACKUP, NAMED_PORT, SERVER, TrialFailed
from needs import CHECK, Needs

ATTEMPT_MS = 10
PATIENCE_S = 30  # for the other server's first answer

# Answers each connection with the server's name.
NAMED = """\
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
while True:
    connection, _ = listener.accept()
    try: connection.sendall(sys.argv[3].encode())
    except OSError: pass
    connection.close()
"""

# A new connection every few milliseconds, whatever became of those before; prints when who answered. Ends a second
# after the first answer of `backup`.
CALLER = """\
import json, socket, sys, threading, time
answers, begin, ended = [], time.monotonic(), None
def call():
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
            connection.settimeout(5)
            name = connection.recv(16).decode()
    except OSError: return
    if name: answers.append((time.monotonic(), name))
due = time.monotonic()
while time.monotonic() < begin + float(sys.argv[4]):
    threading.Thread(target=call, daemon=True).start()
    if ended is None and any(name == "backup" for _, name in answers[-200:]): ended = time.monotonic() + 1
    if ended and time.monotonic() > ended: break
    due += int(sys.argv[3]) / 1e3
    time.sleep(max(0, due - time.monotonic()))
print(json.dumps(answers))
"""

# The machine is gone: nothing answers, nothing is refused.
SILENCE = f"""\
table netdev perf {{
  chain ingress {{
    type filter hook ingress device lan0 priority 0; policy accept;
    ip daddr {SERVER} tcp dport {NAMED_PORT} drop
  }}
}}
"""


class Failover(Case):
    """`silent`: the server falls silent; otherwise its process ends and its kernel refuses connections."""
    needs = Needs(backup=True)
    work_unit = "fail-over"
    quick = False
    metrics = (Metric("gap_ms", "ms from the last answer to the other's first", higher=False),)

    def __init__(self, name, silent):
        self.name = name
        self.silent = silent
        self.title = f"the server {'falls silent' if silent else 'process ends'}; {CHECK}; a connection every {ATTEMPT_MS} ms"
        self.tools = {"nft": "nftables"} if silent else {}

    def refuses(self, contender):
        return contender.without_backup

    def set_up(self, lab):
        lab.own_backup()
        self.server = lab.start("server", [sys.executable, "-c", NAMED, SERVER, str(NAMED_PORT), "server"])
        backup = lab.start("server", [sys.executable, "-c", NAMED, BACKUP, str(NAMED_PORT), "backup"])
        for named in (self.server, backup):
            lab.wait_for_listener(named, NAMED_PORT)

    def measure(self, lab, contender, seconds):
        caller = lab.start("client", [sys.executable, "-c", CALLER, contender.target, str(NAMED_PORT), str(ATTEMPT_MS),
                                      str(seconds + PATIENCE_S)])
        time.sleep(max(2, seconds / 2))
        if self.silent:
            lab.run("server", ["nft", "-f", "-"], 20, stdin=SILENCE)
        else:
            lab.kill(self.server)
        answers = json.loads(lab.end_of(caller, seconds + PATIENCE_S + 10))
        return {"gap_ms": gap_ms(answers), "work": 1}


def gap_ms(answers):
    """From the server's last answer to the backup's first; `answers`: [(when in seconds, by whom)]."""
    local = [when for when, name in answers if name == "server"]
    remote = [when for when, name in answers if name == "backup"]
    if not local or not remote:
        raise TrialFailed("only the other server answered" if remote else "the other server never answered")
    return max(0.0, (min(remote) - max(local)) * 1e3)
