"""Validate the requests and responses of boto3 and of the JSON adapter against AWS's service models.

In tests with the mark `wrong_answer`, only the requests are validated.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aws import http
from tests.service_models import validated


@pytest.fixture(autouse=True)
def _only_requests_valid_on_aws(request: pytest.FixtureRequest) -> Iterator[None]:
    with validated("ignore" if request.node.get_closest_marker("wrong_answer") else "raise"):
        yield


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aws.retry.sleep", lambda _: None)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return the path of a file with a self-signed certificate for 127.0.0.1 and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "strict")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the adapter trust the certificate, and return the path of the certificate."""
    trust = http._trust.__wrapped__()
    trust.load_verify_locations(certificate)
    monkeypatch.setattr(http, "_trust", lambda: trust)
    return certificate
