"""Stands in for a worker of the port that goes on talking, and never ends."""

import socket
import sys
import time

from fallback_server.executors.worker.nursery_main import end_with
from fallback_server.workers.channel import Channel
from fallback_server.workers.messages import Figures, Listening

channel = Channel(socket.socket(fileno=int(sys.argv[1])))
end_with(int(sys.argv[2]))
channel.receive()
channel.send(Listening())
while True:
    channel.send(Figures(turned=True))
    time.sleep(0.05)
