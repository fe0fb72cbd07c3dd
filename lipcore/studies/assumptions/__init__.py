"""The assumption ledger A1-A14."""
