"""The trade in chunks between nodes: one symmetric engine, used by daemon and storage node alike.

Pure and without awaits: picker (which block to request next, over which link) with source (one link: how much to ask it
for), tail (the end), doubts (whom not to share a chunk with) and rarity; assembly (blocks to verified chunks, who sent
what), uplink (whom to serve next, within which budget), budget, rates, strikes. Trio side: engine (the node's
trade as a whole), session (one link), swarm (all links of a tag), spool (the file being filled).
"""
