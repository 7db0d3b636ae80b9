"""The Data page: duplicates found by the audit, and summary charts."""
