"""A client for Snowflake's SQL API that signs in with a key pair whose private key never leaves KMS.

The client authenticates with a JSON Web Token whose RS256 signature KMS creates. (Snowflake: "Authenticating
to the server", "Using key-pair authentication"; AWS KMS API Reference: "Sign".)
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import urllib3

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

TOKEN_SECONDS = 300


class SnowflakeError(Exception):
    """Snowflake returned an error, or did not finish the statement in time."""


@dataclass(frozen=True)
class Signer:
    """An RSA key pair in KMS."""

    kms: "KMSClient"
    key_id: str

    def public_key(self) -> bytes:
        """Return the public key in DER format; a Snowflake user's RSA_PUBLIC_KEY is its base64 encoding."""
        return self.kms.get_public_key(KeyId=self.key_id)["PublicKey"]

    def sign(self, message: bytes) -> bytes:
        answer = self.kms.sign(
            KeyId=self.key_id,
            Message=message,
            MessageType="RAW",
            SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_256",
        )
        return answer["Signature"]


def host_of(account: str) -> str:
    """Return the host name of a Snowflake account. (Snowflake: "Account identifiers")

    `account` may have any documented form: `organisation-name`, `locator`, `locator.region` or
    `locator.region.cloud`, each also with `.privatelink`. Regions in China have a top-level domain of their
    own. In a host name, underscores become hyphens, because OpenSSL accepts no underscore in place of the asterisk
    in the certificate's `*.snowflakecomputing.com`.
    """
    region = account.partition(".")[2]
    return f"{account.replace('_', '-')}.snowflakecomputing.{'cn' if region.lower().startswith('cn-') else 'com'}"


def log_in_token(account: str, user: str, signer: Signer, now: datetime) -> str:
    """Return a JSON Web Token with which `user` can sign in for five minutes.

    Snowflake expects the account and the user in upper case, and only the first part of the account:
    `locator` of `locator.region.cloud`, and `name` of `name-id.global`. Snowflake's connector does the same.
    """
    separator = "-" if ".global" in account else "."
    subject = f"{account.partition(separator)[0].upper()}.{user.upper()}"
    fingerprint = base64.b64encode(hashlib.sha256(signer.public_key()).digest()).decode()
    issued_at = int(now.timestamp())
    claims = {
        "iss": f"{subject}.SHA256:{fingerprint}",
        "sub": subject,
        "iat": issued_at,
        "exp": issued_at + TOKEN_SECONDS,
    }
    signed = f"{_part({'alg': 'RS256', 'typ': 'JWT'})}.{_part(claims)}"
    return f"{signed}.{_base64url(signer.sign(signed.encode()))}"


def _part(fields: Mapping[str, object]) -> str:
    return _base64url(json.dumps(fields, separators=(",", ":"), allow_nan=False).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class SqlApi:
    """A client for the SQL API that runs one statement per call and returns one value."""

    url: str  # such as https://myorg-myaccount.snowflakecomputing.com
    token: str
    http: urllib3.PoolManager

    def value(self, statement: str) -> str:
        """Run a statement and return the first column of its first row as text.

        A statement that needs a warehouse uses the user's default warehouse; other statements start no
        warehouse.
        """
        answer = self.http.request(
            "POST",
            f"{self.url}/api/v2/statements",
            json={"statement": statement, "timeout": 20},
            headers={
                "Authorization": f"Bearer {self.token}",
                "X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT",
                "Accept": "application/json",
                "User-Agent": "milkrun-check/1.0",
            },
        )
        try:
            body = answer.json() if answer.data else {}
        except ValueError:  # a response from a proxy or gateway
            body = {"message": answer.data[:200].decode(errors="replace")}
        # 202 means that the statement still runs after 45 s, and 422 that it failed.
        if answer.status != 200 or "data" not in body:
            said = (answer.status, body.get("code"), body.get("message"))
            raise SnowflakeError(" ".join(str(each) for each in said if each))
        return str(body["data"][0][0])
