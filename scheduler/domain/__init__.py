"""Pure decisions: calendar, identities, state machines; imports nothing of ours."""
