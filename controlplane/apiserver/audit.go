package apiserver

import (
	_ "embed" // the policy
	"fmt"
	"os"
	"path/filepath"

	"gopkg.in/natefinch/lumberjack.v2"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit/policy"
	genericapiserver "k8s.io/apiserver/pkg/server"
	auditbuffered "k8s.io/apiserver/plugin/pkg/audit/buffered"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// What is kept of the audit log: at most 1.1 GB, the older files compressed,
// for at most a month.
const (
	auditFileMegabytes = 100
	auditFiles         = 10
	auditDays          = 30
)

// auditBacklog is how many events wait for a slow disk before more are
// dropped, and counted in apiserver_audit_error_total. Requests never wait.
const auditBacklog = 5000

//go:embed audit-policy.yaml
var auditPolicy []byte

// record fills in who is told of requests: the audit log, where there is one.
func (s *Server) record(config *genericapiserver.Config) error {
	file := s.config.AuditLog
	if file == "" {
		return nil
	}
	text := auditPolicy
	if s.config.AuditPolicy != "" {
		var err error
		if text, err = os.ReadFile(s.config.AuditPolicy); err != nil {
			return fmt.Errorf("read audit policy: %w", err)
		}
	}
	rules, err := policy.LoadPolicyFromBytes(text)
	if err != nil {
		return fmt.Errorf("read audit policy %s: %w", s.config.AuditPolicy, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make directory of the audit log: %w", err)
	}
	// New files are the owner's only; rotated ones keep that.
	writer := &lumberjack.Logger{
		Filename: file, MaxSize: auditFileMegabytes, MaxBackups: auditFiles, MaxAge: auditDays, Compress: true,
	}
	config.AuditPolicyRuleEvaluator = policy.NewPolicyRuleEvaluator(rules)
	config.AuditBackend = auditbuffered.NewBackend(
		auditlog.NewBackend(writer, auditlog.FormatJson, auditv1.SchemeGroupVersion),
		auditbuffered.BatchConfig{BufferSize: auditBacklog, MaxBatchSize: 1},
	)
	return nil
}
