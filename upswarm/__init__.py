"""The front door: command line and Python client. A process of its own that speaks to a program's control socket.

Moves no bytes and keeps no state. Must not import trio: a command answers in the time it takes to type the next.
"""
