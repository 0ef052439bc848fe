"""Python that runs on the nodes and in the orchestrator: cache, budget, planner, probe, prewarm, hitratio."""
