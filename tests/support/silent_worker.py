"""Stands in for a worker of the port that listens, and then does nothing any more."""

import socket
import sys
import threading

from fallback_server.executors.worker.nursery_main import end_with
from fallback_server.workers.channel import Channel
from fallback_server.workers.messages import Listening

channel = Channel(socket.socket(fileno=int(sys.argv[1])))
end_with(int(sys.argv[2]))
channel.receive()
channel.send(Listening())
threading.Event().wait()
