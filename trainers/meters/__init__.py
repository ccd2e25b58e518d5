"""Time, memory, energy and the facts about the machine."""
