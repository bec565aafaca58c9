"""What tests stand on: a throwaway swarm, a network in memory, security without TLS. Full citizens, not mocks: the
network and the security pass the same contract tests as the real ones (tests/contract)."""
