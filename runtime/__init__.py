"""The trio edge all programs stand on: TLS links, listening, heartbeats, control socket, discovery, config, logs,
and the one seam to the outside (clock, randomness, threads, disk, network) that a simulation replaces.

Knows trio and bytes, but not what a chunk is. This file imports nothing: the command line reads runtime.places without
loading trio.
"""
