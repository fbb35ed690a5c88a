"""Every step of SBP alone, on plain files: the functions behind the verbs."""
