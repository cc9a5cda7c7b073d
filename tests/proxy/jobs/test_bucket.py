"""A bucket keeps recordings as a directory does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from proxy.jobs.errors import MissingError, StoreError
from proxy.jobs.sealing import CHUNK_BYTES
from proxy.jobs.service import Places, kept
from proxy.jobs.vault import KeyFile
from tests.proxy.jobs.test_blobs import pattern, pieces


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": url}
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="recordings")
    client.close()
    yield keys
    server.stop()


async def test_a_recording_is_kept_read_and_forgotten(tmp_path: Path, environ: dict[str, str]) -> None:
    KeyFile.make(tmp_path / "key")
    places = Places(tmp_path / "jobs.sqlite", "s3://recordings/jobs", tmp_path / "key", environ)
    data = pattern(10 * 1024 * 1024)  # more than one part of an upload
    async with kept(places) as store:
        blob, _ = await store.blobs.put(pieces(data, 100_000))
        recording = await store.blobs.open(blob)
        assert b"".join([piece async for piece in recording.stream()]) == data
        assert await recording.read(3 * CHUNK_BYTES - 1, 2) == data[3 * CHUNK_BYTES - 1 :][:2]
        await store.blobs.forget(blob)
        with pytest.raises(MissingError):
            await store.blobs.open(blob)


async def test_a_bucket_that_cannot_be_reached_is_the_stores_fault(tmp_path: Path, environ: dict[str, str]) -> None:
    KeyFile.make(tmp_path / "key")
    places = Places(tmp_path / "jobs.sqlite", "s3://no-such-bucket", tmp_path / "key", environ)
    async with kept(places) as store:
        with pytest.raises(StoreError):
            await store.blobs.put(pieces(b"sound"))
