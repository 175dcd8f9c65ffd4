"""From files on disk to a validated dataset, decoded pixels and a patient-level split."""
