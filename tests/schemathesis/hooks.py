"""What schemathesis can't know of the API."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context, value):
    """Lines go as they are; what is tried in place of them, as JSON."""
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.serializer("application/msgpack", "application/vnd.msgpack", "application/x-msgpack")
def msgpack(_context, value):
    """No record, whatever is tried: what is one is told by the project's own tests."""
    return value.encode(errors="replace") if isinstance(value, str) else b"\xc1"


@schemathesis.hook
def map_body(_context, body):
    """A host that is made up becomes one of our own: nobody else is to hear from us, and no call to wait for them."""
    connection = body.get("connection") if isinstance(body, dict) else None
    host = connection.get("host") if isinstance(connection, dict) else None
    if isinstance(host, str) and 0 < len(host.encode(errors="replace")) <= 255 and "\0" not in host:
        return {**body, "connection": {**connection, "host": "127.0.0.1"}}
    return body
