"""What tests stand on: data trees, images, servers, hosts, pods, and what must hold of the manifests."""
