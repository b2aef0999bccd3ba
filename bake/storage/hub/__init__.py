"""Reading and writing repositories on the Hugging Face Hub."""
