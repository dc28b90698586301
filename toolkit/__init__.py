"""The command line and what joins the stages: pipeline, image baselines, plots and the report."""
