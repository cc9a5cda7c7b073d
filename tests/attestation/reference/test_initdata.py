"""Initdata is measured as its exact bytes, cut and padded as the processors take it, and read back from a pod."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import SourceFileError
from attestation.reference.initdata import (
    MAX_INITDATA_BYTES,
    Algorithm,
    image_policy,
    parse_annotation,
    parse_initdata,
    write_initdata,
)

TOML = b"""algorithm = "sha256"
version = "0.1.0"

[data]
"aa.toml" = '''
'''
"""
SHA256 = "253815ff3df412258e0409dac76a20e895dca11ff405bdcd974574c817bcf54f"
ENGINE = "ghcr.io/org/engine@sha256:" + "ab" * 32


def of(algorithm: str) -> bytes:
    return TOML.replace(b"sha256", algorithm.encode())


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_digest_is_of_the_exact_bytes_by_the_algorithm_that_they_name(algorithm: Algorithm) -> None:
    toml = of(algorithm)
    assert parse_initdata(toml).digest == hashlib.new(algorithm, toml).digest()
    spaced = toml.replace(b" = ", b"=")
    assert parse_initdata(spaced).data == parse_initdata(toml).data
    assert parse_initdata(spaced).digest != parse_initdata(toml).digest


def test_a_digest_is_cut_or_followed_by_zeros_as_the_processor_takes_it() -> None:
    digests = {algorithm: parse_initdata(of(algorithm)) for algorithm in Algorithm}
    short, middle, long = (digests[algorithm] for algorithm in Algorithm)
    assert short.host_data == short.digest
    assert short.mr_config_id == short.digest + bytes(16)
    assert middle.host_data == middle.digest[:32]
    assert middle.mr_config_id == middle.digest
    assert (long.host_data, long.mr_config_id) == (long.digest[:32], long.digest[:48])


def test_the_digest_is_what_sha256sum_prints() -> None:
    assert parse_initdata(TOML).digest.hex() == SHA256


# --- annotations


FROM_GZIP = (
    "H4sIAAAAAAACA0vMSc8vyizJyFWwVVAqzkg0MjVT4ipLLSrOzM8DCRnoGeoZKHFxRackliTGciklJuqV5OfmKAHl1NXVuUAYAKdg3XlDAAAA"
)
"""`gzip -9n | base64 -w0`"""


def test_the_annotation_of_another_gzip_is_read() -> None:
    assert parse_annotation(FROM_GZIP) == parse_initdata(TOML)
    other = base64.b64encode(gzip.compress(TOML, mtime=1_700_000_000)).decode()
    assert parse_annotation(other) == parse_initdata(TOML)
    block = "\n  ".join(other[at : at + 40] for at in range(0, len(other), 40))
    assert parse_annotation(f"{block}\n") == parse_initdata(TOML)


@given(st.text(max_size=300))
def test_every_initdata_is_read_back_from_its_annotation(text: str) -> None:
    toml = of("sha384") + f"# {text!a}\n".encode()
    assert parse_annotation(parse_initdata(toml).annotate()) == parse_initdata(toml)


def test_an_annotation_is_the_same_wherever_it_is_made() -> None:
    annotation = parse_initdata(TOML).annotate()
    assert annotation == parse_initdata(TOML).annotate()
    packed = base64.b64decode(annotation)
    assert packed[:10] == bytes.fromhex("1f8b0800000000000003")  # no time, no name, no system of its own
    assert gzip.decompress(packed) == TOML


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "not base64 of gzip|cut short"),
        ("%", "not base64 of gzip"),
        (base64.b64encode(TOML).decode(), "not base64 of gzip"),
        (base64.b64encode(gzip.compress(TOML, mtime=0)[:-9]).decode(), "cut short"),
        (base64.b64encode(gzip.compress(TOML, mtime=0) * 2).decode(), "behind the gzip"),
        (base64.b64encode(gzip.compress(b"a" * 10_000_000 * 2, mtime=0)).decode(), "longer than"),
        (base64.b64encode(gzip.compress(b"[data]", mtime=0)).decode(), "initdata: version"),
    ],
)
def test_an_annotation_that_is_none_is_refused(value: str, fault: str) -> None:
    with pytest.raises(SourceFileError, match=fault):
        parse_annotation(value)


def test_an_annotation_that_no_pod_could_carry_is_refused() -> None:
    noise = "".join(hashlib.sha512(str(number).encode()).hexdigest() for number in range(4000))
    with pytest.raises(SourceFileError, match="more than Kubernetes takes"):
        write_initdata({"policy.rego": noise}).annotate()


FAULTS = {
    "no TOML": (b"[", "initdata: not TOML"),
    "another version": (TOML.replace(b"0.1.0", b"0.2.0"), "version"),
    "an algorithm that there is not": (TOML.replace(b"sha256", b"sha1"), "algorithm"),
    "no algorithm": (TOML.replace(b'algorithm = "sha256"\n', b""), "algorithm: Field required"),
    "no data": (b'algorithm = "sha256"\nversion = "0.1.0"\n', "data: Field required"),
    "an entry that is no text": (
        TOML.replace(b"'''\n'''", b"1"),
        r"data\.\(unprintable name\): Input should be a valid string",
    ),
    "an unknown member": (b"surplus = 1\n" + TOML, "surplus: unknown member"),
    "a date": (b"surplus = 2026-01-01\n" + TOML, "dates"),
    "too long": (TOML + b"#" * MAX_INITDATA_BYTES, "longer than"),
}


@pytest.mark.parametrize(("toml", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_initdata_is_refused(toml: bytes, fault: str) -> None:
    with pytest.raises(SourceFileError, match=fault):
        parse_initdata(toml)


# --- written


def test_initdata_is_written_so_that_a_person_can_read_it() -> None:
    initdata = write_initdata({"policy.rego": "package agent_policy\n", "aa.toml": "a = 1\n"})
    assert initdata.toml.decode() == (
        'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n'
        "\"aa.toml\" = '''\na = 1\n'''\n\"policy.rego\" = '''\npackage agent_policy\n'''\n"
    )


@given(
    st.dictionaries(st.sampled_from(("aa.toml", "cdh.toml", "policy.rego", "a b")), st.text(max_size=60)),
    st.sampled_from(Algorithm),
)
def test_whatever_a_file_holds_is_carried_as_it_is(data: dict[str, str], algorithm: Algorithm) -> None:
    initdata = write_initdata(data, algorithm)
    assert tomllib.loads(initdata.toml.decode())["data"] == data
    assert initdata.algorithm is algorithm
    assert write_initdata(dict(reversed(data.items())), algorithm) == initdata


@pytest.mark.parametrize("text", ["'''", "a'''b", "ends in '", "\r\n", "\x00", "\x7f", '"""', "\\", "\ttab"])
def test_what_a_literal_cannot_hold_is_escaped(text: str) -> None:
    assert write_initdata({"policy.rego": text}).data == {"policy.rego": text}


def test_the_image_policy_names_images_by_digest_and_rejects_all_others() -> None:
    other = "localhost:5000/a/b@sha256:" + "00" * 32
    text = image_policy([other, ENGINE])
    policy = json.loads(tomllib.loads(text)["image"]["image_security_policy"])
    assert policy == {
        "default": [{"type": "reject"}],
        "transports": {"docker": {name: [{"type": "insecureAcceptAnything"}] for name in (ENGINE, other)}},
    }
    assert image_policy([ENGINE, other]) == text
    assert write_initdata({"cdh.toml": text}).data == {"cdh.toml": text}


@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/org/engine:1.0",
        "ghcr.io/org/engine",
        ENGINE.replace("ab", "AB"),
        ENGINE[:-1],
        ENGINE.replace("engine@", "engine:1.0@"),
        "engine@sha256:" + "ab" * 32,
        ENGINE + "\n",
        "",
    ],
)
def test_an_image_that_is_not_named_by_its_digest_is_refused(image: str) -> None:
    with pytest.raises(SourceFileError, match="HOST/NAME@sha256:DIGEST"):
        image_policy([image])


def test_a_changed_digest_of_an_image_is_another_initdata() -> None:
    one, other = (write_initdata({"cdh.toml": image_policy([name])}) for name in (ENGINE, ENGINE.replace("ab", "ac")))
    assert one.host_data != other.host_data
    assert one.mr_config_id != other.mr_config_id
