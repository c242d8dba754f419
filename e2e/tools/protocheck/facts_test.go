// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// mutated writes cri-api's own descriptor, changed by mutate, where a compiled protocol is expected, and
// returns what the check says of it.
func mutated(t *testing.T, mutate func(*descriptorpb.FileDescriptorProto)) []string {
	t.Helper()
	file := protodesc.ToFileDescriptorProto(theirs)
	mutate(file)
	encoded, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "descriptors.bin")
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	ours, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	return differences(ours, factsOf(theirs))
}

func message(file *descriptorpb.FileDescriptorProto, name string) *descriptorpb.DescriptorProto {
	i := slices.IndexFunc(file.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == name })
	return file.MessageType[i]
}

func field(file *descriptorpb.FileDescriptorProto, of, name string) *descriptorpb.FieldDescriptorProto {
	fields := message(file, of).Field
	i := slices.IndexFunc(fields, func(f *descriptorpb.FieldDescriptorProto) bool { return f.GetName() == name })
	return fields[i]
}

func TestCountsWhatKubernetes137Has(t *testing.T) {
	if got, want := countsOf(theirs), (counts{messages: 175, fields: 478, values: 95, methods: 43}); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
}

func TestSameDescriptorHasNoDifference(t *testing.T) {
	if found := mutated(t, func(*descriptorpb.FileDescriptorProto) {}); len(found) != 0 {
		t.Errorf("differences: %q", found)
	}
}

func TestEachMutationIsNamed(t *testing.T) {
	type file = descriptorpb.FileDescriptorProto
	cases := map[string]struct {
		mutate func(*file)
		want   []string // how each difference begins, in order
	}{
		"field number": {
			func(f *file) { field(f, "PodIP", "ip").Number = proto.Int32(7) },
			[]string{"field runtime.v1.PodIP.ip: here number 7"},
		},
		"field type": {
			func(f *file) {
				field(f, "KeyValue", "value").Type = descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum()
			},
			[]string{"field runtime.v1.KeyValue.value: here number 2, optional string"},
		},
		"field label": {
			func(f *file) { field(f, "PodIP", "ip").Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum() },
			[]string{"field runtime.v1.PodIP.ip: here number 1, repeated string"},
		},
		"field message type": {
			func(f *file) { field(f, "ContainerStats", "io").TypeName = proto.String(".runtime.v1.CpuUsage") },
			[]string{"field runtime.v1.ContainerStats.io: here number 6, optional runtime.v1.CpuUsage"},
		},
		"field name": {
			func(f *file) {
				renamed := field(f, "PodIP", "ip")
				renamed.Name, renamed.JsonName = proto.String("addr"), proto.String("addr")
			},
			[]string{"field runtime.v1.PodIP.addr: not in cri-api", "field runtime.v1.PodIP.ip: missing here"},
		},
		"field removed": {
			func(f *file) { message(f, "PodIP").Field = nil },
			[]string{"field runtime.v1.PodIP.ip: missing here", "message runtime.v1.PodIP: here proto3, 0 fields"},
		},
		"field optional": {
			func(f *file) {
				message(f, "PodIP").OneofDecl = []*descriptorpb.OneofDescriptorProto{{Name: proto.String("_ip")}}
				field(f, "PodIP", "ip").OneofIndex, field(f, "PodIP", "ip").Proto3Optional = proto.Int32(0), proto.Bool(true)
			},
			[]string{"field runtime.v1.PodIP.ip: here number 1, optional string, json ip, in oneof _ip, presence"},
		},
		"secret unmarked": {
			func(f *file) { field(f, "AuthConfig", "password").Options = nil },
			[]string{"field runtime.v1.AuthConfig.password: here number 2, optional string, json password, in cri-api"},
		},
		"map value": {
			func(f *file) {
				entry := message(f, "ImageStatusResponse").NestedType[0]
				entry.Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
			},
			[]string{"field runtime.v1.ImageStatusResponse.info: here number 2, map<string, bytes>"},
		},
		"number reserved": {
			func(f *file) {
				message(f, "PodIP").ReservedRange = []*descriptorpb.DescriptorProto_ReservedRange{
					{Start: proto.Int32(2), End: proto.Int32(3)},
				}
			},
			[]string{"message runtime.v1.PodIP: here proto3, 1 fields, reserved [[2 3]]"},
		},
		"message added": {
			func(f *file) {
				f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: proto.String("Novelty")})
			},
			[]string{"message runtime.v1.Novelty: not in cri-api"},
		},
		"enum value": {
			func(f *file) { f.EnumType[0].Value[1].Number = proto.Int32(9) },
			[]string{"value runtime.v1.Protocol.UDP: here number 9, in cri-api number 1"},
		},
		"enum value removed": {
			func(f *file) { f.EnumType[0].Value = f.EnumType[0].Value[:2] },
			[]string{"enum runtime.v1.Protocol: here proto3, 2 values", "value runtime.v1.Protocol.SCTP: missing here"},
		},
		"method streams": {
			func(f *file) { f.Service[0].Method[0].ServerStreaming = proto.Bool(true) },
			[]string{"method runtime.v1.RuntimeService.Version: here (runtime.v1.VersionRequest) returns (stream "},
		},
		"method removed": {
			func(f *file) { f.Service[0].Method = f.Service[0].Method[1:] },
			[]string{"method runtime.v1.RuntimeService.Version: missing", "service runtime.v1.RuntimeService: here 36 methods"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			found := mutated(t, c.mutate)
			if !slices.EqualFunc(found, c.want, strings.HasPrefix) {
				t.Errorf("differences are %q, want %q", found, c.want)
			}
		})
	}
}

func TestAnotherPackageIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "descriptors.bin")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(path); err == nil || !strings.Contains(err.Error(), "holds no file of package runtime.v1") {
		t.Errorf("load of an empty set: %v", err)
	}
}
