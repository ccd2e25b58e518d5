"""One fine-tune: model, data, optimizer, loop and meters. Imported only inside a trial process."""
