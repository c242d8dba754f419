// SPDX-License-Identifier: Apache-2.0

// Protocheck compares a compiled protocol with the one Kubernetes ships in k8s.io/cri-api: every service,
// method, message, field, enum and value, in both directions. It compares facts that the wire or a client can
// see, not comments, order or files. The version it compares with is the one go.mod pins.
//
//	protocheck DESCRIPTORS    a file that holds an encoded google.protobuf.FileDescriptorSet
//
// It prints each difference and a last line with the counts; it exits 1 if there is a difference and 2 if it
// could not compare.
package main

import (
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// theirs is the file descriptor that cri-api's generated Go code carries.
var theirs = cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protocheck DESCRIPTORS")
		os.Exit(2)
	}
	ours, err := load(os.Args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "protocheck: %v\n", err)
		os.Exit(2)
	}
	if report(os.Stdout, differences(ours, factsOf(theirs)), countsOf(theirs)) > 0 {
		os.Exit(1)
	}
}

// load reads a descriptor set and collects the facts of every file in it that is of theirs' package.
func load(path string) (facts, error) {
	encoded, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read descriptors: %w", err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(encoded, set); err != nil {
		return nil, fmt.Errorf("decode descriptors of %s: %w", path, err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("link descriptors of %s: %w", path, err)
	}
	ours := facts{}
	files.RangeFilesByPackage(theirs.Package(), func(file protoreflect.FileDescriptor) bool {
		ours.addFile(file)
		return true
	})
	if len(ours) == 0 {
		return nil, fmt.Errorf("%s holds no file of package %s", path, theirs.Package())
	}
	return ours, nil
}

// report prints the differences and the counts, and returns the number of differences.
func report(out io.Writer, found []string, counted counts) int {
	for _, line := range found {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintf(out, "%d messages, %d fields, %d enum values, %d methods checked, %d differences\n",
		counted.messages, counted.fields, counted.values, counted.methods, len(found))
	return len(found)
}
