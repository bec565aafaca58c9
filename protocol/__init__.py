"""What may be said: ids, manifest, messages, limits, errors, frames, codec.

Bytes in, events out. Nothing here knows a clock, a socket, a file or trio. The specification is docs/protocol.md.
"""
