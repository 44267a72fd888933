"""The settings of the API's conduct: a part of `Settings`, in a file of its own for its length."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from scheduler import setting_values as values
from scheduler.setting_values import Takes, WholeSeconds

_Claim = Annotated[str, Field(min_length=1, max_length=200)]

PerMinute = Annotated[int, Field(ge=0, le=10_000_000), Takes("a whole number from 0 to 10000000")]


class ApiSettings(BaseSettings):
    """Who may call the API, and how they prove it."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    api_authentication: Annotated[Literal["required", "none"], Takes("required or none")] = "required"
    """Whether callers of the API must prove who they are; none: everybody is an admin, for development alone."""

    jwt_secret: Annotated[
        SecretStr | None, Field(min_length=32), Takes("a secret text of at least 32 characters")
    ] = None
    """Secret that JWT bearer tokens are signed with (HS256); absent: no such tokens are taken."""

    jwt_jwks_url: Annotated[
        str | None,
        BeforeValidator(values.http_url),
        Takes("an http:// or https:// address without user, password or fragment"),
    ] = None
    """Address of the keys that JWT bearer tokens are signed with (RS256, ES256); absent: no such tokens are taken."""

    jwt_issuer: Annotated[_Claim | None, Takes("the text of the claim iss")] = None
    """Issuer that JWT bearer tokens must name."""

    jwt_audience: Annotated[_Claim | None, Takes("a text that is in the claim aud")] = None
    """Audience that JWT bearer tokens must be for."""

    jwt_tenant_claim: Annotated[
        _Claim | None, Takes("the name of a claim, with dots into objects: tenant_id, app.tenant")
    ] = None
    """Claim with the tenant's id in JWT bearer tokens; absent: all tokens are the first tenant's."""

    jwt_roles_claim: Annotated[
        _Claim, Takes("the name of a claim, with dots into objects: roles, realm_access.roles")
    ] = "roles"
    """Claim with the caller's roles in JWT bearer tokens: a list, or a text with spaces between them."""

    api_requests_per_minute: PerMinute = 6000
    """Requests that each API process takes from one caller (key or, without one, address) in a minute; 0: any."""

    api_failed_authentications_per_minute: PerMinute = 60
    """Failed authentications of one address in a minute that each API process answers before it refuses; 0: any."""

    api_statement_seconds: WholeSeconds = 30
    """Seconds that one statement of a request may take in the database."""

    api_cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(values.origins),
        Takes(
            "addresses without path, with commas between them: https://app.example.org,http://localhost:3000"
        ),
    ] = ()
    """Origins whose web pages may call the API from a browser (CORS); absent: none."""

    @model_validator(mode="after")
    def _tokens_are_checked_whole(self) -> Self:
        if (self.jwt_secret or self.jwt_jwks_url) and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError(
                "DAYBREAK_JWT_ISSUER and DAYBREAK_JWT_AUDIENCE: got nothing for one of them, but JWT bearer tokens "
                "are to be taken; take the texts of the claims iss and aud"
            )
        return self
