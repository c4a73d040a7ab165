"""The HASAC update and the learner that hosts call."""
