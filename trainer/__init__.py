"""Training: strategies, sweeps, pretraining and the command line. Imports `core`, never streamlit."""
