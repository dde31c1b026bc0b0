"""moto's S3 with the bucket `chaos`, as a program: prints "ready on PORT", then serves forever."""

from __future__ import annotations

import logging
import threading

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
client.create_bucket(Bucket="chaos")
print(f"ready on {port}", flush=True)
threading.Event().wait()
