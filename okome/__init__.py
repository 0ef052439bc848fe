"""Python that runs on the nodes and inside the orchestrator: cache, budget, planner, probe and others."""
